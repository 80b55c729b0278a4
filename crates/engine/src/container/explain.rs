//! Where each field of a container's spec comes from. Nothing is made or changed for it.

use std::os::fd::{AsFd, BorrowedFd};

use unlade_graph::driver::{LayerId, MountOf};

use super::{
    Containers, Record, With, names,
    start::{cgroup, init, runtime_facts},
};
use crate::{
    error::Result,
    image::FullConfig,
    spec::{self, Field, Files, ImageConfig, Ns, Placement, Shm, request::Request},
    volume::{Planned, Volumes},
};

impl Containers<'_> {
    /// The fields of a container's spec.
    ///
    /// # Errors
    /// If its root cannot be looked into.
    pub fn explain(&self, record: &Record) -> Result<Vec<Field>> {
        let root = self.root(record, With::Nothing)?;
        self.fields(
            &record.id,
            &record.name,
            &record.facts.image,
            &record.request,
            &record.facts.mounts,
            root.fd(),
        )
    }

    /// As [`Containers::explain`], of a container that could be made.
    ///
    /// # Errors
    /// As [`Containers::create`], as far as the request is at fault.
    pub fn explain_new(
        &self,
        config: &FullConfig,
        layers: &[LayerId],
        mut request: Request,
    ) -> Result<Vec<Field>> {
        let image = ImageConfig::from(config);
        spec::merge(&image, &mut request)?;
        spec::check(&request, self.host())?;
        let id = names::new_id()?;
        if request.config.hostname.is_empty() {
            request.config.hostname = spec::hostname(&request, self.host(), &id);
        }
        let others = self.volumes_from(&request)?;
        let others: Vec<(&str, Vec<Planned>)> = others
            .iter()
            .map(|(mode, mounts)| (&**mode, mounts.clone()))
            .collect();
        let mounts = Volumes::wanted(&request, &others)?;
        let root = self.driver.mount(MountOf::Layers(layers))?;
        let name = names::generate(0)?;
        self.fields(&id, &name, &image, &request, &mounts, root.as_fd())
    }

    fn fields(
        &self,
        id: &str,
        name: &str,
        image: &ImageConfig,
        request: &Request,
        mounts: &[Planned],
        root: BorrowedFd<'_>,
    ) -> Result<Vec<Field>> {
        let host = &request.host_config;
        let place = self.place(id)?;
        let runtime = runtime_facts(&self.runtime(&host.runtime)?);
        let mode = |mode: &str| match mode {
            "host" => Ns::Host,
            other if other.starts_with("container:") => Ns::Path(other.into()),
            _ => Ns::New,
        };
        let user = spec::user::resolve(root, &request.config.user, &host.group_add)?;
        let dirs = &self.config.cdi_spec_dirs;
        let placement = Placement {
            id: id.to_owned(),
            name: name.to_owned(),
            hostname: request.config.hostname.clone(),
            rootfs: "rootfs".into(),
            cdi: spec::cdi::find(dirs, &host.device_requests, &user)?,
            user,
            disks: spec::blkio::find(host)?,
            network: match &*host.network_mode {
                "none" => Ns::New,
                "host" => Ns::Host,
                other if other.starts_with("container:") => Ns::Path(other.into()),
                _ => Ns::Path(self.config.run_root.join("netns").join(id)),
            },
            pid: mode(&host.pid_mode),
            ipc: mode(&host.ipc_mode),
            uts: mode(&host.uts_mode),
            shm: match &*host.ipc_mode {
                "none" => Shm::Absent,
                "host" => Shm::Path("/dev/shm".into()),
                _ => Shm::Own,
            },
            files: Files {
                hostname: Some(place.run.join("hostname")),
                hosts: Some(place.run.join("hosts")),
                resolv_conf: Some(place.run.join("resolv.conf")),
            },
            mounts: self.volumes.describe(id, mounts, &runtime)?,
            devices: spec::devices::find(request)?,
            cgroup_path: cgroup(request, id).unwrap_or_default(),
            init: init(request)?,
            runtime,
            ..Placement::default()
        };
        spec::assemble(image, request, self.host(), &placement)?.explain()
    }
}
