//! Records of networks: what there is, and which addresses and ports are taken. What a record
//! says beyond its name is the network module's business.

use std::{collections::BTreeSet, net::IpAddr};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Store,
    db::{Commit, Tx, TxFail},
};
use crate::error::{Error, Kind, Result};

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRow {
    /// 64 hex digits.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// All about it, as JSON.
    pub record: String,
}

/// A container that is in a network now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRow {
    /// The container's id.
    pub container: String,
    /// The network's id.
    pub network: String,
    /// All about it, as JSON.
    pub record: String,
}

/// A port of the host that leads to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRow {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// Address of the host, or the unspecified one for all.
    pub address: IpAddr,
    /// The container's id.
    pub container: String,
}

/// What can be done with networks in one transaction.
#[derive(Debug)]
pub struct NetTx<'a>(&'a Connection);

fn as_address(row: &Row<'_>, at: usize) -> rusqlite::Result<IpAddr> {
    row.get_ref(at)?
        .as_str()?
        .parse()
        .map_err(|e: std::net::AddrParseError| {
            let text = rusqlite::types::Type::Text;
            rusqlite::Error::FromSqlConversionFailure(at, text, Box::new(e))
        })
}

fn network(row: &Row<'_>) -> rusqlite::Result<NetworkRow> {
    Ok(NetworkRow {
        id: row.get(0)?,
        name: row.get(1)?,
        record: row.get(2)?,
    })
}

fn endpoint(row: &Row<'_>) -> rusqlite::Result<EndpointRow> {
    Ok(EndpointRow {
        container: row.get(0)?,
        network: row.get(1)?,
        record: row.get(2)?,
    })
}

fn port(row: &Row<'_>) -> rusqlite::Result<PortRow> {
    Ok(PortRow {
        protocol: row.get(0)?,
        port: row.get(1)?,
        address: as_address(row, 2)?,
        container: row.get(3)?,
    })
}

/// Errors inside of [`Store::networks`]; made by `?`.
pub type NetFail = TxFail;

type Done<T> = std::result::Result<T, NetFail>;

impl NetTx<'_> {
    /// All networks, by name.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn networks(&self) -> Done<Vec<NetworkRow>> {
        let mut select = self
            .0
            .prepare_cached("SELECT id, name, record FROM networks ORDER BY name")?;
        let rows = select.query_map([], network)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The network of that name.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn network(&self, name: &str) -> Done<Option<NetworkRow>> {
        let mut select = self
            .0
            .prepare_cached("SELECT id, name, record FROM networks WHERE name = ?1")?;
        Ok(select.query_row([name], network).optional()?)
    }

    /// Records a network.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if there is one of that name.
    pub fn insert(&self, row: &NetworkRow) -> Done<()> {
        if self.network(&row.name)?.is_some() {
            let m = format!("network with name {} already exists", row.name);
            return Err(Error::new(Kind::Conflict, m).into());
        }
        self.0.execute(
            "INSERT INTO networks (id, name, record) VALUES (?1, ?2, ?3)",
            params![row.id, row.name, row.record],
        )?;
        Ok(())
    }

    /// Forgets a network without endpoints.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn delete(&self, id: &str) -> Done<()> {
        self.0.execute("DELETE FROM networks WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Who is in a network.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn endpoints(&self, network: &str) -> Done<Vec<EndpointRow>> {
        self.select("network", network)
    }

    /// In which networks a container is.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn endpoints_of(&self, container: &str) -> Done<Vec<EndpointRow>> {
        self.select("container", container)
    }

    fn select(&self, column: &str, value: &str) -> Done<Vec<EndpointRow>> {
        let mut select = self.0.prepare_cached(&format!(
            "SELECT container, network, record FROM endpoints WHERE {column} = ?1"
        ))?;
        let rows = select.query_map([value], endpoint)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Puts a container into a network with addresses that [`NetTx::addresses`] has not.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn put_endpoint(&self, row: &EndpointRow, addresses: &[IpAddr]) -> Done<()> {
        self.0.execute(
            "INSERT OR REPLACE INTO endpoints (container, network, record) VALUES (?1, ?2, ?3)",
            params![row.container, row.network, row.record],
        )?;
        for address in addresses {
            self.0.execute(
                "INSERT INTO addresses (network, address, container) VALUES (?1, ?2, ?3)",
                params![row.network, address.to_string(), row.container],
            )?;
        }
        Ok(())
    }

    /// Addresses of a network that are taken.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn addresses(&self, network: &str) -> Done<BTreeSet<IpAddr>> {
        let mut select = self
            .0
            .prepare_cached("SELECT address FROM addresses WHERE network = ?1")?;
        let rows = select.query_map([network], |r| as_address(r, 0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Who has a port of the host.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn ports(&self, protocol: &str, number: u16) -> Done<Vec<PortRow>> {
        let mut select = self.0.prepare_cached(
            "SELECT protocol, port, address, container FROM ports
             WHERE protocol = ?1 AND port = ?2",
        )?;
        let rows = select.query_map(params![protocol, number], port)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Gives a container a port that nobody has.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn put_port(&self, row: &PortRow) -> Done<()> {
        self.0.execute(
            "INSERT INTO ports (protocol, port, address, container) VALUES (?1, ?2, ?3, ?4)",
            params![
                row.protocol,
                row.port,
                row.address.to_string(),
                row.container
            ],
        )?;
        Ok(())
    }

    /// Containers that have endpoints or ports.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn containers(&self) -> Done<BTreeSet<String>> {
        let mut select = self.0.prepare_cached(
            "SELECT DISTINCT container FROM endpoints UNION SELECT container FROM ports",
        )?;
        let rows = select.query_map([], |r| r.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Takes a container out of one network.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn forget_endpoint(&self, container: &str, network: &str) -> Done<()> {
        self.0.execute(
            "DELETE FROM endpoints WHERE container = ?1 AND network = ?2",
            [container, network],
        )?;
        Ok(())
    }

    /// Takes a container out of all networks, and its ports from it.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn forget(&self, container: &str) -> Done<()> {
        self.0
            .execute("DELETE FROM endpoints WHERE container = ?1", [container])?;
        self.0
            .execute("DELETE FROM ports WHERE container = ?1", [container])?;
        Ok(())
    }
}

impl Store {
    /// Does `f` in one transaction, all of it or nothing. What a power cut may undo, unless
    /// `durable`, are endpoints, addresses and ports, which are gone after it anyway.
    ///
    /// # Errors
    /// From `f`, or if the database cannot be written.
    pub fn networks<T>(&self, durable: bool, f: impl Fn(&NetTx<'_>) -> Done<T>) -> Result<T> {
        let commit = if durable {
            Commit::Durable
        } else {
            Commit::Lazy
        };
        self.0
            .db
            .write(commit, |tx| -> Tx<T> { f(&NetTx(tx)).map_err(|e| e.0) })
    }

    /// Reads about networks from one state of the database.
    ///
    /// # Errors
    /// From `f`, or if the database cannot be read.
    pub fn read_networks<T>(&self, f: impl FnOnce(&NetTx<'_>) -> Done<T>) -> Result<T> {
        self.0
            .db
            .read(|c| -> Tx<T> { f(&NetTx(c)).map_err(|e| e.0) })
    }
}
