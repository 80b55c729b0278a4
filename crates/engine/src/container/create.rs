//! Making a container: its record, its snapshot, its volumes.

use std::collections::BTreeMap;

use unlade_graph::driver::{DriverKind, LayerId, RwOptions};

use super::{
    Containers, Status, links, logging, names,
    record::{Facts, Record, text},
    start::cgroup_parent,
};
use crate::{
    error::{Error, Kind, Result},
    image::{FullConfig, json::show},
    runtime::cgroup::Cgroup,
    spec::{self, ImageConfig, request::Request},
    store::{Image, NewContainer, Stage},
    volume::{Planned, What},
};

/// The prefix of modes that name another container.
pub(super) const OTHER: &str = "container:";

/// A container to be made.
#[derive(Debug)]
pub struct New<'a> {
    /// Its image.
    pub image: &'a Image,
    /// The image's config.
    pub config: &'a FullConfig,
    /// The names of the image's layers, lowest first.
    pub layers: &'a [LayerId],
    /// What it is to be.
    pub request: Request,
    /// Its name; two words if none is given.
    pub name: Option<String>,
    /// It is started at once by this process, and goes with its end.
    pub transient: bool,
}

/// A container that was made.
#[derive(Debug)]
pub struct Made {
    /// It.
    pub record: Record,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Containers<'_> {
    /// Makes a container. Until it is started or [`Containers::keep`] is called, it goes when this
    /// process ends.
    ///
    /// # Errors
    /// For what is wrong with the request, with docker's words; [`Kind::Conflict`] for a name
    /// that is taken. Nothing is left then.
    pub fn create(&self, new: New<'_>) -> Result<Made> {
        let New {
            image,
            config,
            layers,
            mut request,
            name,
            transient,
        } = new;
        let name = name
            .map(|n| names::check(&n).map(str::to_owned))
            .transpose()?;
        let image_config = ImageConfig::from(config);
        spec::merge(&image_config, &mut request)?;
        let host = self.host();
        let mut warnings = spec::check(&request, host)?;
        check_names(&request)?;
        check_realtime(&request)?;
        if request.host_config.network_mode == "host" && publishes(&request) {
            let m = "published ports are discarded when using host network mode";
            warnings.push(m.to_owned());
        }
        logging::check(&request)?;
        storage_size(&request)?;
        self.runtime(&request.host_config.runtime)?;
        links::check(&request)?;
        self.networks.check(&mut request)?;
        let id = names::new_id()?;
        if request.config.hostname.is_empty() {
            // Who shares a network shares the name that others know it by there.
            request.config.hostname = match request.host_config.network_mode.strip_prefix(OTHER) {
                Some(other) => self.find(other)?.request.config.hostname,
                None => spec::hostname(&request, host, &id),
            };
        }
        let facts = Facts {
            image: image_config,
            platform: format!("{}/{}", config.os, config.architecture),
            mounts: Vec::new(),
            others: self.others(&request)?,
        };
        let created = jiff::Timestamp::now().as_nanosecond();
        let mut record = Record {
            id,
            name: String::new(),
            created: i64::try_from(created).unwrap_or(i64::MAX),
            image: image.id,
            request,
            facts,
            stage: Stage::Creating,
            abandoned: false,
            run: None,
        };
        self.add(&mut record, name, transient)?;
        match self.furnish(&mut record, layers) {
            Ok(()) => {
                self.tell("create", &record, &[]);
                Ok(Made { record, warnings })
            }
            Err(e) => {
                // What is left of it is found by its record, if this fails too.
                if let Err(left) = self.remove_parts(&record, true) {
                    tracing::warn!(error = %left, "a container that could not be made stays");
                }
                Err(e)
            }
        }
    }

    /// A container that was made stays when this process ends.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn keep(&self, record: &Record) -> Result<()> {
        self.store.set_container_stage(&record.id, Stage::Created)?;
        self.store.copy_container(&record.id);
        Ok(())
    }

    /// Records it under its name, or under one that is free.
    fn add(&self, record: &mut Record, name: Option<String>, transient: bool) -> Result<()> {
        for tries in 0.. {
            record.name = match &name {
                Some(name) => name.clone(),
                None => names::generate(tries)?,
            };
            let new = NewContainer {
                id: record.id.clone(),
                name: record.name.clone(),
                created: record.created,
                image: record.image,
                request: text(&record.request)?,
                facts: text(&record.facts)?,
                transient,
            };
            match self.store.add_container(&new) {
                Err(e) if e.kind() == Kind::Conflict && name.is_none() && tries < 20 => {}
                done => return done,
            }
        }
        Ok(())
    }

    fn furnish(&self, record: &mut Record, layers: &[LayerId]) -> Result<()> {
        let snapshot = Self::snapshot(&record.id)?;
        let mut options = RwOptions::default();
        options.ephemeral = record.request.host_config.auto_remove;
        options.size = storage_size(&record.request)?;
        self.driver
            .create_rw(&snapshot, layers, &options)
            .map_err(|e| self.unlimited(e.into(), &options))?;
        let others = self.volumes_from(&record.request)?;
        let others: Vec<(&str, Vec<Planned>)> = others
            .iter()
            .map(|(mode, mounts)| (&**mode, mounts.clone()))
            .collect();
        record.facts.mounts = self.volumes.plan(&record.id, &record.request, &others)?;
        for mount in &mut record.facts.mounts {
            if mount.what == What::Image {
                self.keep_image(&record.id, mount)?;
            }
        }
        if !record.facts.mounts.is_empty() {
            self.store
                .set_container_facts(&record.id, &text(&record.facts)?)?;
        }
        Ok(())
    }

    /// Says what a limit needs, where that is why there is no snapshot.
    fn unlimited(&self, e: Error, options: &RwOptions) -> Error {
        let of_limit = options.size.is_some() && e.kind() == Kind::Unsupported;
        match self.driver.kind() {
            _ if !of_limit => e,
            DriverKind::Btrfs => e.context("--storage-opt size"),
            _ => e.context(
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
            ),
        }
    }

    /// Keeps the image of a mount for as long as the container is there, and notes its layers: it
    /// is mounted also after it is no longer listed.
    fn keep_image(&self, id: &str, mount: &mut Planned) -> Result<()> {
        let image = match self.store.resolve(&mount.source) {
            // Of another container, whose image is no longer listed.
            Err(e) if !mount.layers.is_empty() && e.kind() == Kind::NotFound => {
                return Err(e.context(format!("image mount {}", mount.target)));
            }
            Err(e) if e.kind() == Kind::NotFound => {
                let hint = format!("`unlade pull {}`", show(&mount.source));
                return Err(e.with_hint(hint));
            }
            found => found?,
        };
        self.store.pin_for_container(id, &image.id)?;
        mount.layers = self
            .store
            .image_layers(&image)?
            .into_iter()
            .map(|l| l.layer)
            .collect();
        mount.source = image.id.to_string();
        Ok(())
    }

    /// For each of `VolumesFrom`: how, and what that container has mounted.
    pub(super) fn volumes_from(&self, request: &Request) -> Result<Vec<(String, Vec<Planned>)>> {
        let from = request.host_config.volumes_from.iter();
        from.map(|from| {
            let (name, mode) = from.split_once(':').unwrap_or((from, ""));
            Ok((mode.to_owned(), self.find(name)?.facts.mounts))
        })
        .collect()
    }

    /// The containers that modes such as `container:web` stand for.
    fn others(&self, request: &Request) -> Result<BTreeMap<String, String>> {
        let host = &request.host_config;
        let mut others = BTreeMap::new();
        for link in &host.links {
            let (name, _) = links::parse(link)?;
            let missing = |e: Error| e.context(format!("could not get container for {name}"));
            others.insert(name.to_owned(), self.find(name).map_err(missing)?.id);
        }
        for mode in [&host.network_mode, &host.pid_mode, &host.ipc_mode] {
            if let Some(name) = mode.strip_prefix(OTHER) {
                others.insert(name.to_owned(), self.find(name)?.id);
            }
        }
        Ok(others)
    }

    /// Another container whose namespaces are to be joined, and its first process.
    pub(super) fn other(&self, record: &Record, name: &str, what: &str) -> Result<(Record, i32)> {
        let id = record.facts.others.get(name).map_or(name, |id| id);
        let other = self.find(id)?;
        let view = self.view(&other)?;
        if view.status == Status::Restarting {
            let m = format!("cannot join {what} of a restarting container: {}", other.id);
            return Err(Error::new(Kind::Conflict, m).with_hint("wait until it runs"));
        }
        if view.pid == 0 {
            let m = format!(
                "cannot join {what} of a non running container: {}",
                other.id
            );
            return Err(Error::new(Kind::Conflict, m)
                .with_hint(format!("start it first: `unlade start {}`", other.name)));
        }
        Ok((other, view.pid))
    }
}

fn publishes(request: &Request) -> bool {
    let host = &request.host_config;
    host.publish_all_ports || !host.port_bindings.is_empty()
}

/// Who sees the host's names has no others.
fn check_names(request: &Request) -> Result<()> {
    if request.host_config.uts_mode != "host" {
        return Ok(());
    }
    for (name, what) in [
        (&request.config.hostname, "hostname"),
        (&request.config.domainname, "domainname"),
    ] {
        if !name.is_empty() {
            let m = format!("conflicting options: {what} and the UTS mode");
            return Err(Error::new(Kind::BadInput, m).with_hint("leave out one of them"));
        }
    }
    Ok(())
}

/// A group can have what is left of its parent's real-time CPU time, and groups are made with none.
fn check_realtime(request: &Request) -> Result<()> {
    let asked = request.host_config.cpu_realtime_runtime;
    let Some(parent) = cgroup_parent(request).filter(|_| asked > 0) else {
        return Ok(());
    };
    const FILE: &str = "cpu.rt_runtime_us";
    let Some(group) = Cgroup::at(&parent) else {
        return Ok(());
    };
    let has = group.read("cpu", FILE).ok();
    let has: i64 = has.and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    if asked <= has {
        return Ok(());
    }
    let m = format!(
        "--cpu-rt-runtime: the control group {parent} has {has} microseconds of real-time CPU \
         time, and {asked} are asked for"
    );
    let at = group.dir("cpu").display().to_string();
    Err(Error::new(Kind::Unsupported, m).with_hint(format!(
        "give it some: `mkdir -p {at}; echo {asked} > {at}/{FILE}`; or name another by \
         --cgroup-parent"
    )))
}

/// How many bytes its own files may take; 0 is no limit, as docker has it.
fn storage_size(request: &Request) -> Result<Option<u64>> {
    let mut limit = None;
    for (key, value) in &request.host_config.storage_opt {
        if !key.eq_ignore_ascii_case("size") {
            let m = format!("Unknown option {}", show(&key.to_lowercase()));
            return Err(Error::new(Kind::BadInput, m).with_hint("--storage-opt size=10g"));
        }
        let size = spec::size::bytes(value)?;
        limit = u64::try_from(size).ok().filter(|n| *n > 0);
    }
    Ok(limit)
}
