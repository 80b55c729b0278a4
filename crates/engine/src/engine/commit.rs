//! Containers made into images.

use std::os::fd::AsFd;

use jiff::Timestamp;
use unlade_unpack::{Algorithm, Cancel, Digest, Limits};

use super::Engine;
use crate::{
    archive::{self, LoadedImage, LoadedLayer},
    container::{Containers, Record, Status, With},
    error::{Error, Kind, Result},
    exchange,
    image::{
        FullConfig, change,
        config::MAX_BYTES,
        full::{ContainerConfig, Healthcheck, History, Nothing},
        name::Reference,
    },
    spec::request,
    store::ImageLayer,
    tarball::Packer,
};

/// A container that is to become an image.
#[derive(Debug)]
pub struct CommitRequest {
    /// The container.
    pub container: String,
    /// The image's name, if it gets one.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// A comment.
    pub message: String,
    /// Directives of a Dockerfile (`CMD …`).
    pub changes: Vec<String>,
    /// The container is frozen meanwhile.
    pub pause: bool,
    /// Stops it.
    pub cancel: Cancel,
}

impl Engine {
    /// Makes an image of a container. Returns its id.
    ///
    /// # Errors
    /// If there is no such container, something is wrong with the changes, or the host refuses.
    pub fn commit(&self, request: &CommitRequest) -> Result<Digest> {
        if request.name.as_ref().is_some_and(|n| n.digest().is_some()) {
            let m = "an image cannot be committed under a digest";
            return Err(Error::new(Kind::BadInput, m).with_hint("give NAME[:TAG]"));
        }
        let containers = self.containers()?;
        let record = containers.find(&request.container)?;
        let image = self.image_of(&record)?;
        let base = FullConfig::parse(self.store.document(&image.id, MAX_BYTES)?)?;
        let mut run = run_config(&record, &base);
        change::apply(&mut run, &request.changes)?;
        let lease = self.store.lease("commit")?;
        self.store.hold_image(&lease, &image.id)?;
        let new = self.pack_layer(&containers, &record, request)?;
        let mut layers: Vec<LoadedLayer> = self
            .store
            .image_layers(&image)?
            .into_iter()
            .map(loaded)
            .collect();
        let mut config = committed(&base, &record, request, run, new.is_none());
        if let Some(archive::Imported { file, layer }) = new {
            self.put_layer(&lease, file, &layer, &request.cancel)?;
            config.diff_ids.push(layer.diff_id);
            layers.push(layer);
        }
        let document = config.to_document();
        let id = Digest::of(Algorithm::Sha256, &document);
        let (media_type, manifest) = archive::new_manifest(&id, document.len() as u64, &layers);
        let committed = LoadedImage {
            names: Vec::new(),
            id,
            digest: Digest::of(Algorithm::Sha256, &manifest),
            config: FullConfig::parse(document.clone())?,
            media_type,
            manifest,
            is_new: true,
            layers,
        };
        self.store.put_blob(&lease, &id, &document)?;
        self.store
            .put_blob(&lease, &committed.digest, &committed.manifest)?;
        let names: Vec<Reference> = request.name.iter().cloned().collect();
        self.add_image(&lease, &committed, &names, &request.cancel)?;
        drop(lease);
        self.drop_blobs()?;
        containers.note("commit", &record);
        for name in &names {
            self.tell_image("tag", &id, &id.to_string(), &name.familiar());
        }
        Ok(id)
    }

    /// The layer of what changed in a container; `None` if nothing did.
    fn pack_layer(
        &self,
        containers: &Containers<'_>,
        record: &Record,
        request: &CommitRequest,
    ) -> Result<Option<archive::Imported>> {
        let runs = containers.view(record)?.status == Status::Running;
        let pause = request.pause && runs && Containers::can_pause(record);
        let _frozen = match pause {
            true => Some(Frozen::new(containers, record)?),
            false => None,
        };
        let root = containers.root(record, With::Nothing)?;
        let changes = self.changes_of(containers, record, &root)?;
        let below = self.below(record)?;
        let cancel = &request.cancel;
        let (from, mut to) = std::io::pipe().map_err(|e| Error::host("make a pipe", e))?;
        std::thread::scope(|scope| {
            let packed = scope.spawn(|| {
                let mut packer = Packer::new(&mut to, true, cancel);
                let any = exchange::pack_changes(&mut packer, &changes, root.fd(), below.as_fd());
                let done = any.and_then(|any| packer.finish().map(|_| any));
                drop(to);
                done
            });
            let scratch = self.scratch()?;
            let imported = archive::import(from, &scratch, &Limits::default(), cancel);
            let packed = packed
                .join()
                .map_err(|_| Error::new(Kind::Bug, "the thread that reads files panicked"))?;
            match (packed, imported) {
                (Ok(any), Ok(imported)) => Ok(any.then_some(imported)),
                // Without a reader nothing can be written: that is not what went wrong.
                (Err(e), Err(_)) if e.raw_os_error() != Some(libc::EPIPE) => Err(e),
                (_, Err(e)) | (Err(e), _) => Err(e),
            }
        })
    }
}

/// A container that is frozen for a while.
struct Frozen<'a> {
    containers: &'a Containers<'a>,
    record: &'a Record,
}

impl<'a> Frozen<'a> {
    fn new(containers: &'a Containers<'a>, record: &'a Record) -> Result<Self> {
        containers.pause(record)?;
        Ok(Self { containers, record })
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.containers.unpause(self.record) {
            tracing::warn!(error = %e, "the container stays paused");
        }
    }
}

fn loaded(layer: ImageLayer) -> LoadedLayer {
    // Docker's own names for the same things; the manifest that lists them is OCI's.
    let media_type = match &*layer.media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        other => other,
    };
    LoadedLayer {
        digest: layer.blob,
        size: layer.blob_size,
        media_type: media_type.to_owned(),
        diff_id: layer.diff_id,
    }
}

/// How containers of the new image run: as this one, with what an image says and a container does
/// not.
fn run_config(record: &Record, base: &FullConfig) -> ContainerConfig {
    let c = &record.request.config;
    let set = |names: &request::Set| {
        (!names.is_empty()).then(|| names.keys().map(|k| (k.clone(), Nothing)).collect())
    };
    let healthcheck = c.healthcheck.as_ref().map(|h| Healthcheck {
        test: Some(h.test.clone()),
        interval: h.interval,
        timeout: h.timeout,
        start_period: h.start_period,
        start_interval: h.start_interval,
        retries: h.retries,
    });
    ContainerConfig {
        user: c.user.clone(),
        exposed_ports: set(&c.exposed_ports),
        env: (!c.env.is_empty()).then(|| c.env.clone()),
        entrypoint: c.entrypoint.clone(),
        cmd: c.cmd.clone(),
        volumes: set(&c.volumes),
        working_dir: c.working_dir.clone(),
        labels: (!c.labels.is_empty()).then(|| c.labels.clone()),
        stop_signal: c.stop_signal.clone().unwrap_or_default(),
        healthcheck,
        shell: base.config.as_ref().and_then(|c| c.shell.clone()),
        ..ContainerConfig::default()
    }
}

/// The config of the new image; its layer's diffID is yet to be added.
fn committed(
    base: &FullConfig,
    record: &Record,
    request: &CommitRequest,
    run: ContainerConfig,
    empty_layer: bool,
) -> FullConfig {
    let created = Some(Timestamp::now().to_string());
    let mut config = base.clone();
    let cmd = record.request.config.cmd.as_deref().unwrap_or_default();
    config.history.push(History {
        created: created.clone(),
        created_by: cmd.join(" "),
        author: request.author.clone(),
        comment: request.message.clone(),
        empty_layer,
    });
    config.created = created;
    config.author = request.author.clone();
    config.comment = request.message.clone();
    config.docker_version = String::new();
    config.config = Some(run);
    config
}
