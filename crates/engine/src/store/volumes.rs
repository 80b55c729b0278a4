//! Which container uses which volume. The volumes themselves are directories: what people keep
//! in them does not depend on the database.

use rusqlite::{Connection, params};

use super::{
    Store,
    db::{Commit, Tx, TxFail},
};
use crate::error::Result;

/// A volume's use by a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUser {
    /// The volume's name.
    pub volume: String,
    /// The container's id.
    pub container: String,
    /// Whether what the image has there was copied into it, if it was to be.
    pub filled: bool,
}

impl VolumeUser {
    pub(super) fn insert(&self, c: &Connection) -> rusqlite::Result<()> {
        c.execute(
            "INSERT OR REPLACE INTO volume_users (volume, container, filled) VALUES (?1, ?2, ?3)",
            params![self.volume, self.container, self.filled],
        )?;
        Ok(())
    }
}

/// What can be done with the uses of volumes in one transaction.
#[derive(Debug)]
pub struct VolumeTx<'a>(&'a Connection);

/// Errors inside of [`Store::volumes`]; made by `?`.
pub type VolumeFail = TxFail;

type Done<T> = std::result::Result<T, VolumeFail>;

impl VolumeTx<'_> {
    /// All uses, by volume.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn users(&self) -> Done<Vec<VolumeUser>> {
        self.select("", [])
    }

    /// Who uses a volume.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn users_of(&self, volume: &str) -> Done<Vec<VolumeUser>> {
        self.select("WHERE volume = ?1", [volume])
    }

    /// What a container uses.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn used_by(&self, container: &str) -> Done<Vec<VolumeUser>> {
        self.select("WHERE container = ?1", [container])
    }

    fn select<const N: usize>(&self, r#where: &str, by: [&str; N]) -> Done<Vec<VolumeUser>> {
        let mut select = self.0.prepare_cached(&format!(
            "SELECT volume, container, filled FROM volume_users {where} ORDER BY volume, container"
        ))?;
        let rows = select.query_map(rusqlite::params_from_iter(by), |r| {
            Ok(VolumeUser {
                volume: r.get(0)?,
                container: r.get(1)?,
                filled: r.get(2)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Records a use, or that it is filled by now.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn put(&self, user: &VolumeUser) -> Done<()> {
        Ok(user.insert(self.0)?)
    }

    /// Forgets all uses by a container.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn forget(&self, container: &str) -> Done<()> {
        self.0
            .execute("DELETE FROM volume_users WHERE container = ?1", [container])?;
        Ok(())
    }
}

impl Store {
    /// Does `f` in one transaction; no other process changes volumes or their uses meanwhile.
    ///
    /// # Errors
    /// From `f`, or if the database cannot be written.
    pub fn volumes<T>(&self, f: impl Fn(&VolumeTx<'_>) -> Done<T>) -> Result<T> {
        self.0.db.write(Commit::Lazy, |tx| -> Tx<T> {
            f(&VolumeTx(tx)).map_err(|e| e.0)
        })
    }

    /// Reads about uses from one state of the database.
    ///
    /// # Errors
    /// From `f`, or if the database cannot be read.
    pub fn read_volumes<T>(&self, f: impl FnOnce(&VolumeTx<'_>) -> Done<T>) -> Result<T> {
        self.0
            .db
            .read(|c| -> Tx<T> { f(&VolumeTx(c)).map_err(|e| e.0) })
    }
}
