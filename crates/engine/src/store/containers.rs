//! Containers: which there are, what they are called, and which image each keeps.
//!
//! What they were asked to be and what became of them are documents of the container module; here
//! they are text. A record comes before anything else of a container, and goes after everything
//! else: so whatever kills the work in between, there is a record by which the rest is found.

use rusqlite::{Connection, OptionalExtension, Row, params};
use unlade_unpack::Digest;

use super::{
    Store,
    db::{Commit, Tx, digest},
    leases::Process,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// What owners of pins of containers begin with.
const OWNER: &str = "container:";

/// A container to be recorded.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in nanoseconds since 1970.
    pub created: i64,
    /// Its image, which is kept for it.
    pub image: Digest,
    /// What it was asked to be, as JSON.
    pub request: String,
    /// What was decided for it, as JSON.
    pub facts: String,
    /// Whether it may be lost in a power cut: it goes with its end anyway.
    pub transient: bool,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRow {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in nanoseconds since 1970.
    pub created: i64,
    /// Its image.
    pub image: Digest,
    /// What it was asked to be, as JSON.
    pub request: String,
    /// What was decided for it, as JSON.
    pub facts: String,
    /// How far it is.
    pub stage: Stage,
    /// Its last run, as JSON; `None` if it never ran.
    pub run: Option<String>,
    /// Whether the process that is making or removing it is gone.
    pub abandoned: bool,
}

/// How far a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A process is making it.
    Creating,
    /// It is whole.
    Created,
    /// A process is removing it.
    Removing,
}

impl Stage {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Removing => "removing",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "creating" => Self::Creating,
            "removing" => Self::Removing,
            _ => Self::Created,
        }
    }
}

const COLUMNS: &str = "id, name, created, image, request, facts, stage, run, \
                       pid, start, pid_namespace, boot";

fn no_such(text: &str) -> Error {
    Error::new(Kind::NotFound, format!("No such container: {}", show(text)))
        .with_hint("`unlade ps -a` lists those that there are")
}

fn taken(name: &str, by: &str) -> Error {
    let m = format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{by}\". You \
         have to remove (or rename) that container to be able to reuse that name."
    );
    Error::new(Kind::Conflict, m).with_hint(format!("`unlade rm {name}` removes it"))
}

impl Store {
    fn read_container(&self, row: &Row<'_>) -> rusqlite::Result<ContainerRow> {
        let stage: String = row.get(6)?;
        let pid: Option<i64> = row.get(8)?;
        let abandoned = match pid {
            None => false,
            Some(pid) => {
                let process = Process::of(pid, row.get(9)?, row.get(10)?, row.get(11)?);
                !self.0.process.sees_alive(&process)
            }
        };
        Ok(ContainerRow {
            id: row.get(0)?,
            name: row.get(1)?,
            created: row.get(2)?,
            image: digest(row, 3)?,
            request: row.get(4)?,
            facts: row.get(5)?,
            stage: Stage::parse(&stage),
            run: row.get(7)?,
            abandoned,
        })
    }

    /// Records a container that this process is about to make, and keeps its image.
    ///
    /// # Errors
    /// [`Kind::Conflict`] for a name that is taken, with docker's words; [`Kind::NotFound`] if
    /// the image is gone.
    pub fn add_container(&self, new: &NewContainer) -> Result<()> {
        let commit = if new.transient {
            Commit::Lazy
        } else {
            Commit::Durable
        };
        let me = &self.0.process;
        let (pid, start, namespace, boot) = me.parts();
        self.0.db.write(commit, |tx| {
            free_name(tx, &new.name)?;
            if pin_image(tx, self.driver(), &owner(&new.id), &new.image)? == 0 {
                let m = format!("No such image: {}", new.image);
                return Err(Error::new(Kind::NotFound, m)
                    .with_hint("pull it first")
                    .into());
            }
            tx.prepare_cached(
                "INSERT INTO containers (id, driver, name, created, image, request, facts, stage,
                   pid, start, pid_namespace, boot)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                new.id,
                self.driver(),
                new.name,
                new.created,
                new.image.to_string(),
                new.request,
                new.facts,
                Stage::Creating.text(),
                pid,
                start,
                namespace,
                boot,
            ])?;
            Ok(())
        })
    }

    /// All containers of this graph driver, the newest first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn containers(&self) -> Result<Vec<ContainerRow>> {
        self.select("driver = ?1 ORDER BY created DESC, id")
    }

    /// Containers whose making or removal a killed process has left off. Costs little when there
    /// are none.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn abandoned_containers(&self) -> Result<Vec<ContainerRow>> {
        let mut all = self.select("driver = ?1 AND pid IS NOT NULL")?;
        all.retain(|row| row.abandoned);
        Ok(all)
    }

    fn select(&self, which: &str) -> Result<Vec<ContainerRow>> {
        let select = format!("SELECT {COLUMNS} FROM containers WHERE {which}");
        self.0.db.read(|c| {
            let mut select = c.prepare_cached(&select)?;
            let rows = select.query_map([self.driver()], |r| self.read_container(r))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The container that `text` stands for: its id, its name with or without a slash before it,
    /// or the beginning of its id.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Conflict`] for the beginning of several ids.
    pub fn container(&self, text: &str) -> Result<ContainerRow> {
        let name = text.strip_prefix('/').unwrap_or(text);
        self.0.db.read(|c| {
            let by = |which: &str, value: &str| {
                let select =
                    format!("SELECT {COLUMNS} FROM containers WHERE driver = ?1 AND {which} = ?2");
                let mut select = c.prepare_cached(&select)?;
                let row =
                    select.query_row(params![self.driver(), value], |r| self.read_container(r));
                row.optional()
            };
            if let Some(row) = by("id", text)? {
                return Ok(row);
            }
            if let Some(row) = by("name", name)? {
                return Ok(row);
            }
            let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            if text.is_empty() || text.len() > 64 || !text.bytes().all(hex) {
                return Err(no_such(text).into());
            }
            let select = format!(
                "SELECT {COLUMNS} FROM containers
                 WHERE driver = ?1 AND id >= ?2 AND id < ?2 || 'g' LIMIT 2"
            );
            let mut select = c.prepare_cached(&select)?;
            let rows =
                select.query_map(params![self.driver(), text], |r| self.read_container(r))?;
            let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            match (rows.pop(), rows.pop()) {
                (None, _) => Err(no_such(text).into()),
                (Some(row), None) => Ok(row),
                _ => {
                    let m = format!("multiple IDs found with provided prefix: {text}");
                    Err(Error::new(Kind::Conflict, m)
                        .with_hint("give more digits")
                        .into())
                }
            }
        })
    }

    /// Whether there is a container of that id, whatever its graph driver.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn container_exists(&self, id: &str) -> Result<bool> {
        self.0.db.read(|c| {
            let select = "SELECT 1 FROM containers WHERE id = ?1";
            Ok(c.query_row(select, [id], |_| Ok(())).optional()?.is_some())
        })
    }

    /// Moves a container to a further stage; a process that is making or removing it is this one.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is gone.
    pub fn set_container_stage(&self, id: &str, stage: Stage) -> Result<()> {
        let me = (stage != Stage::Created).then(|| self.0.process.parts());
        self.update_container(id, |tx| {
            let (pid, start, namespace, boot) = match me {
                Some((a, b, c, d)) => (Some(a), Some(b), Some(c), Some(d)),
                None => (None, None, None, None),
            };
            tx.execute(
                "UPDATE containers SET stage = ?2, pid = ?3, start = ?4, pid_namespace = ?5,
                   boot = ?6 WHERE id = ?1",
                params![id, stage.text(), pid, start, namespace, boot],
            )
        })
    }

    /// Records a container's run, begun or ended, and that it is whole.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is gone.
    pub fn set_container_run(&self, id: &str, run: &str) -> Result<()> {
        self.update_container(id, |tx| {
            tx.execute(
                "UPDATE containers SET run = ?2, stage = 'created', pid = NULL, start = NULL,
                   pid_namespace = NULL, boot = NULL WHERE id = ?1",
                params![id, run],
            )
        })
    }

    /// Records what a container is asked to be from now on.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is gone.
    pub fn set_container_request(&self, id: &str, request: &str) -> Result<()> {
        self.update_container(id, |tx| {
            tx.execute(
                "UPDATE containers SET request = ?2 WHERE id = ?1",
                params![id, request],
            )
        })
    }

    /// Records what was decided for a container.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is gone.
    pub fn set_container_facts(&self, id: &str, facts: &str) -> Result<()> {
        self.update_container(id, |tx| {
            tx.execute(
                "UPDATE containers SET facts = ?2 WHERE id = ?1",
                params![id, facts],
            )
        })
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it is taken, [`Kind::NotFound`] if the container is gone.
    pub fn rename_container(&self, id: &str, name: &str) -> Result<()> {
        self.0.db.write(Commit::Durable, |tx| {
            free_name(tx, name)?;
            let changed = tx.execute(
                "UPDATE containers SET name = ?2 WHERE id = ?1",
                params![id, name],
            )?;
            if changed == 0 {
                Err(no_such(id).into())
            } else {
                Ok(())
            }
        })
    }

    fn update_container(
        &self,
        id: &str,
        update: impl Fn(&Connection) -> rusqlite::Result<usize>,
    ) -> Result<()> {
        self.0.db.write(Commit::Lazy, |tx| match update(tx)? {
            0 => Err(no_such(id).into()),
            _ => Ok(()),
        })
    }

    /// Keeps an image that a container has mounted, as long as the container is recorded.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such image.
    pub fn pin_for_container(&self, id: &str, image: &Digest) -> Result<()> {
        self.pin(&mount_owner(id, image), image)
    }

    /// Takes the record of a container away, after everything else of it; its image is not kept
    /// for it any more. One that is gone already is fine.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        self.0.db.write(Commit::Lazy, |tx| {
            // With those of its mounts, which come after it and before `owner0`.
            let delete = "DELETE FROM pins WHERE driver = ?1
                AND (owner = ?2 OR owner >= ?2 || '/' AND owner < ?2 || '0')";
            tx.prepare_cached(delete)?
                .execute(params![self.driver(), owner(id)])?;
            tx.prepare_cached("DELETE FROM containers WHERE id = ?1")?
                .execute([id])?;
            Ok(())
        })
    }
}

/// The owner of the pin of a container.
pub(super) fn owner(id: &str) -> String {
    format!("{OWNER}{id}")
}

/// The owner of the pin of an image that a container has mounted: one for each, since an owner
/// has a layer once.
pub(super) fn mount_owner(id: &str, image: &Digest) -> String {
    format!("{}/{}", owner(id), image.hex())
}

/// The container that owns a pin, if one does.
pub(super) fn pinned_by(owner: &str) -> Option<&str> {
    let id = owner.strip_prefix(OWNER)?;
    Some(id.split('/').next().unwrap_or(id))
}

fn free_name(tx: &Connection, name: &str) -> Tx<()> {
    let by = tx
        .prepare_cached("SELECT id FROM containers WHERE name = ?1")?
        .query_row([name], |r| r.get::<_, String>(0))
        .optional()?;
    by.map_or(Ok(()), |by| Err(taken(name, &by).into()))
}

/// Keeps an image's layers for `owner`; how many rows that took.
pub(super) fn pin_image(tx: &Connection, driver: &str, owner: &str, image: &Digest) -> Tx<usize> {
    // An image without layers is pinned by a row without one.
    // Of a row that is there already, as a second mount of an image has it, the count tells too.
    let insert = "INSERT INTO pins
        SELECT i.driver, ?2, i.digest, coalesce(l.layer, '') FROM images i
        LEFT JOIN image_layers l ON l.image = i.key
        WHERE i.driver = ?1 AND i.digest = ?3 AND NOT i.broken
        ON CONFLICT (driver, owner, layer) DO UPDATE SET image = excluded.image";
    Ok(tx
        .prepare_cached(insert)?
        .execute(params![driver, owner, image.to_string()])?)
}
