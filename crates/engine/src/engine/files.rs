//! Images in files: saved, loaded, imported.

use std::{
    collections::HashSet,
    fs::File,
    io::{Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use jiff::Timestamp;
use unlade_unpack::{Algorithm, Cancel, Digest, Limits};

use super::{Described, Engine};
use crate::{
    archive::{
        self, Format, ImageToSave, LayerToSave, LoadedImage, LoadedLayer, Loading, Receive,
        SavedName,
    },
    error::{Error, Kind, Result},
    image::{Descriptor, FullConfig, Platform, manifest::MAX_BYTES, name::Reference},
    pull::layers_here,
    source::Scratch,
    store::{BlobWriter, GcOptions, ImageLayer, Ingest, Lease, NewImage, Store},
};

/// Layers of an image in a file, at most.
const MOST_LAYERS: usize = 1000;
/// Media type of a layer that is saved uncompressed.
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// What is to be saved, and how.
#[derive(Debug)]
pub struct SaveRequest {
    /// Names or ids.
    pub images: Vec<String>,
    /// As what.
    pub format: Format,
    /// Stops it.
    pub cancel: Cancel,
}

/// A tar that is to become an image.
#[derive(Debug)]
pub struct ImportRequest {
    /// The image's name, if it gets one.
    pub name: Option<Reference>,
    /// Directives of a Dockerfile (`CMD …`).
    pub changes: Vec<String>,
    /// A comment.
    pub message: Option<String>,
    /// What it runs on; this machine's if not given.
    pub platform: Option<Platform>,
    /// Stops it.
    pub cancel: Cancel,
}

impl Engine {
    /// Writes images to an archive. Their blobs are written as they came. Where they are not
    /// kept but the driver has the layers' tars, these are.
    ///
    /// # Errors
    /// If an image is not here, its layers can be had in no form, or writing fails.
    pub fn save(&self, request: &SaveRequest, out: &mut dyn Write) -> Result<()> {
        let lease = self.store.lease("save")?;
        let images = self.to_save(&lease, &request.images)?;
        archive::write(&images, request.format, out, &request.cancel)?;
        self.tell_saved(&images);
        Ok(())
    }

    /// Writes images to an OCI layout in the directory `dir`.
    ///
    /// # Errors
    /// As [`Engine::save`], and if there is something in the directory.
    pub fn save_dir(&self, request: &SaveRequest, dir: &Path) -> Result<()> {
        let lease = self.store.lease("save")?;
        let images = self.to_save(&lease, &request.images)?;
        archive::write_dir(&images, dir, &request.cancel)?;
        self.tell_saved(&images);
        Ok(())
    }

    fn tell_saved(&self, images: &[ImageToSave]) {
        for image in images {
            let id = Digest::of(Algorithm::Sha256, &image.config);
            self.tell_image("save", &id, &id.to_string(), &id.to_string());
        }
    }

    /// `names`, with a repository's tags in the place of its bare name, as docker does.
    fn with_all_tags(&self, names: &[String]) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for text in names {
            let bare = Reference::parse(text)
                .ok()
                .filter(|r| r.tag().is_none() && r.digest().is_none());
            match bare.map(|r| self.local_tags(&r)) {
                Some(Ok(tags)) => all.extend(tags.iter().map(Reference::canonical)),
                // An id, or what is not there.
                _ => all.push(text.clone()),
            }
        }
        Ok(all)
    }

    fn to_save(&self, lease: &Lease, names: &[String]) -> Result<Vec<ImageToSave>> {
        let mut saved: Vec<(Digest, ImageToSave)> = Vec::new();
        for text in &self.with_all_tags(names)? {
            let described = self.describe(text)?;
            self.store.hold_image(lease, &described.image.id)?;
            let names = names_of(&described, text)?;
            let id = described.image.id;
            match saved.iter_mut().find(|(other, _)| *other == id) {
                Some((_, known)) => known.names.extend(names),
                None => saved.push((id, self.image_to_save(&described, names)?)),
            }
        }
        for (_, image) in &mut saved {
            image.names.sort();
            image.names.dedup();
        }
        Ok(saved.into_iter().map(|(_, image)| image).collect())
    }

    fn image_to_save(&self, described: &Described, names: Vec<SavedName>) -> Result<ImageToSave> {
        let Described {
            image,
            config,
            layers,
        } = described;
        let mut kept = true;
        for layer in layers {
            kept &= self.store.blob(&layer.blob)?.is_some();
        }
        if kept {
            let (media_type, _) = self.store.manifest_of(image)?;
            let open = |layer: &ImageLayer| {
                let (store, digest) = (self.store.clone(), layer.blob);
                LayerToSave {
                    digest,
                    size: layer.blob_size,
                    open: Box::new(move || open_blob(&store, &digest)),
                }
            };
            return Ok(ImageToSave {
                names,
                media_type,
                manifest: self.store.document(&image.manifest, MAX_BYTES)?,
                config: config.raw.to_vec(),
                layers: layers.iter().map(open).collect(),
            });
        }
        let (mut listed, mut tars) = (Vec::new(), Vec::new());
        for (layer, id) in layers.iter().zip(self.layer_ids(image)?) {
            let missing = || {
                let m = format!("neither blob nor tar of layer {} is kept", layer.diff_id);
                Error::new(Kind::NotFound, m).with_hint(
                    "set keep-blobs = \"always\" and pull again, or use the graph driver erofs",
                )
            };
            let file = self.driver.tar(&id)?.ok_or_else(missing)?;
            let meta = file
                .metadata()
                .map_err(|e| Error::host("look at a tar", e))?;
            listed.push(LoadedLayer {
                digest: layer.diff_id,
                size: meta.size(),
                media_type: TAR.to_owned(),
                diff_id: layer.diff_id,
            });
            tars.push(LayerToSave {
                digest: layer.diff_id,
                size: meta.size(),
                open: Box::new(move || {
                    let host = |e| Error::host("read a layer's tar", e);
                    let mut again = file.try_clone().map_err(host)?;
                    again.rewind().map_err(host)?;
                    Ok(Box::new(again))
                }),
            });
        }
        let (media_type, manifest) =
            archive::new_manifest(&image.id, config.raw.len() as u64, &listed);
        Ok(ImageToSave {
            names,
            media_type,
            manifest,
            config: config.raw.to_vec(),
            layers: tars,
        })
    }

    /// Loads the images of an archive. Returns the names and ids that docker would tell, in
    /// order.
    ///
    /// # Errors
    /// Whatever is wrong with the archive or the images in it.
    pub fn load(
        &self,
        input: impl Read,
        platform: Option<&Platform>,
        cancel: &Cancel,
    ) -> Result<Vec<Loaded>> {
        self.receive(platform, cancel, |receiver, loading| {
            archive::load(input, receiver, loading)
        })
    }

    /// Loads the images of an OCI layout in the directory `dir`.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_dir(
        &self,
        dir: &Path,
        platform: Option<&Platform>,
        cancel: &Cancel,
    ) -> Result<Vec<Loaded>> {
        self.receive(platform, cancel, |receiver, loading| {
            archive::load_dir(dir, receiver, loading)
        })
    }

    fn receive(
        &self,
        platform: Option<&Platform>,
        cancel: &Cancel,
        read: impl FnOnce(&mut Receiver<'_>, &Loading<'_>) -> Result<Vec<LoadedImage>>,
    ) -> Result<Vec<Loaded>> {
        let lease = self.store.lease("load")?;
        let limits = Limits::default();
        let scratch = self.scratch()?;
        let loading = Loading {
            platform,
            limits: &limits,
            max_layers: MOST_LAYERS,
            scratch: &scratch,
            cancel,
        };
        let mut receiver = Receiver {
            store: &self.store,
            lease: &lease,
            cancel,
            writer: None,
        };
        let done = self.beside_flush(|| {
            let images = read(&mut receiver, &loading)?;
            for image in &images {
                fits(platform, image)?;
            }
            images
                .into_iter()
                .map(|image| self.add_loaded(&lease, image, cancel))
                .collect::<Result<Vec<_>>>()
        })?;
        drop(lease);
        for loaded in &done {
            let id = loaded.id.to_string();
            self.tell_image("load", &loaded.id, &id, loaded.names.first().unwrap_or(&id));
        }
        self.drop_blobs()?;
        Ok(done)
    }

    fn add_loaded(&self, lease: &Lease, image: LoadedImage, cancel: &Cancel) -> Result<Loaded> {
        if image.is_new {
            self.store.put_blob(lease, &image.digest, &image.manifest)?;
        }
        let mut names = Vec::new();
        // A tag alone, as some tools put into an OCI layout, is no name.
        let full = |name: &&String| name.contains(['/', ':']);
        for name in image.names.iter().filter(full) {
            let reference = Reference::parse(name)?.with_default_tag();
            if reference.digest().is_none() {
                names.push(reference);
            }
        }
        self.add_image(lease, &image, &names, cancel)?;
        Ok(Loaded {
            id: image.id,
            names: names.iter().map(Reference::familiar).collect(),
        })
    }

    /// Makes the layers of an image whose blobs are all here, and lists it.
    pub(super) fn add_image(
        &self,
        lease: &Lease,
        image: &LoadedImage,
        names: &[Reference],
        cancel: &Cancel,
    ) -> Result<()> {
        let blobs: Vec<Descriptor> = image.layers.iter().map(descriptor).collect();
        let diff_ids: Vec<Digest> = image.layers.iter().map(|l| l.diff_id).collect();
        let made = layers_here(self.parts(), lease, &blobs, &diff_ids, cancel)?;
        let layers = made
            .iter()
            .zip(&image.layers)
            .map(|(made, layer)| ImageLayer {
                layer: made.id.to_string(),
                diff_id: layer.diff_id,
                blob: layer.digest,
                blob_size: layer.size,
                media_type: layer.media_type.clone(),
            });
        let new = NewImage {
            id: image.id,
            config_size: image.config.raw.len() as u64,
            manifest: image.digest,
            manifest_type: image.media_type.clone(),
            manifest_size: image.manifest.len() as u64,
            platform: image.config.platform(),
            created: image.config.created_seconds(),
            size: made.iter().map(|l| l.bytes).sum(),
            layers: layers.collect(),
            names: names.iter().map(Reference::canonical).collect(),
            repo_digests: Vec::new(),
        };
        self.flush_if_sync()?;
        self.store.add_image(lease, &new)
    }

    /// Makes an image of one layer from a tar, plain or compressed. Returns its id.
    ///
    /// # Errors
    /// Whatever is wrong with the tar or the changes.
    pub fn import(&self, input: impl Read, request: &ImportRequest) -> Result<Digest> {
        let lease = self.store.lease("import")?;
        let (cancel, limits) = (&request.cancel, Limits::default());
        let archive::Imported { file, layer } =
            archive::import(input, &self.scratch()?, &limits, cancel)?;
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        let message = request.message.as_deref();
        let new = archive::new_image(
            &layer,
            &request.changes,
            message,
            &platform,
            Timestamp::now(),
        )?;
        self.put_layer(&lease, file, &layer, cancel)?;
        self.store.put_blob(&lease, &new.id, &new.config)?;
        let names: Vec<Reference> = request.name.iter().cloned().collect();
        if names.iter().any(|n| n.digest().is_some()) {
            return Err(
                Error::new(Kind::BadInput, "an image cannot be imported under a digest")
                    .with_hint("give NAME[:TAG]"),
            );
        }
        let image = LoadedImage {
            names: Vec::new(),
            id: new.id,
            config: FullConfig::parse(new.config)?,
            media_type: new.media_type,
            manifest: new.manifest,
            digest: new.digest,
            is_new: true,
            layers: vec![layer],
        };
        self.store
            .put_blob(&lease, &image.digest, &image.manifest)?;
        self.add_image(&lease, &image, &names, cancel)?;
        drop(lease);
        let id = image.id.to_string();
        let name = names.first().map(Reference::familiar);
        self.tell_image("import", &image.id, &id, name.as_ref().unwrap_or(&id));
        self.drop_blobs()?;
        Ok(image.id)
    }

    /// Stores the blob of a layer that was written to a temporary file.
    pub(super) fn put_layer(
        &self,
        lease: &Lease,
        mut file: File,
        layer: &LoadedLayer,
        cancel: &Cancel,
    ) -> Result<()> {
        let mut receiver = Receiver {
            store: &self.store,
            lease,
            cancel,
            writer: None,
        };
        if !receiver.begin(&layer.digest, layer.size)? {
            return Ok(());
        }
        let mut chunk = vec![0; 256 << 10];
        loop {
            let n = file
                .read(&mut chunk)
                .map_err(|e| Error::host("read a new layer", e))?;
            if n == 0 {
                return receiver.end(&layer.digest);
            }
            receiver.data(&chunk[..n])?;
        }
    }

    /// Frees the blobs that came in files, if none are kept.
    pub(super) fn drop_blobs(&self) -> Result<()> {
        if self.keep_blobs() {
            return Ok(());
        }
        let options = GcOptions {
            keep_layer_blobs: false,
            ..GcOptions::default()
        };
        self.store.gc(&*self.driver, &options).map(drop)
    }

    /// Temporary files beside the store, which is where the space is.
    pub(super) fn scratch(&self) -> Result<Scratch> {
        let dir = File::open(self.store.root());
        let dir = dir.map_err(|e| Error::host("open the store", e))?;
        Ok(Scratch::new(dir.into()))
    }
}

/// An image that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names that it got, in docker's short form.
    pub names: Vec<String>,
}

fn descriptor(layer: &LoadedLayer) -> Descriptor {
    Descriptor {
        media_type: layer.media_type.clone(),
        digest: layer.digest,
        size: layer.size,
        platform: None,
        annotations: Default::default(),
        urls: Vec::new(),
    }
}

fn open_blob(store: &Store, digest: &Digest) -> Result<Box<dyn Read>> {
    let file = store.blob(digest)?;
    let missing = || Error::new(Kind::NotFound, format!("the blob {digest} was removed"));
    Ok(Box::new(file.ok_or_else(missing)?))
}

/// Whether a loaded image is for the platform that was asked for.
fn fits(wanted: Option<&Platform>, image: &LoadedImage) -> Result<()> {
    let (Some(wanted), Some(has)) = (wanted, image.config.platform()) else {
        return Ok(());
    };
    if wanted.rank(&has).is_some() {
        return Ok(());
    }
    let m = format!("the archive has no image for {wanted}, but for {has}");
    Err(Error::new(Kind::NotFound, m).with_hint("choose one of its platforms with --platform"))
}

/// The names that an image is saved under when it was named by `text`: that one; by a
/// repository alone all its tags, as docker; by an id none.
fn names_of(described: &Described, text: &str) -> Result<Vec<SavedName>> {
    let Ok(asked) = Reference::parse(text) else {
        return Ok(Vec::new());
    };
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for name in &described.image.names {
        let name = Reference::parse(name)?;
        let same = name.repository() == asked.repository()
            && asked.digest().is_none()
            && name.tag() == asked.clone().with_default_tag().tag();
        if same && seen.insert(name.canonical()) {
            names.push(SavedName {
                full: name.canonical(),
                familiar: name.familiar(),
                tag: name.tag().unwrap_or_default().to_owned(),
            });
        }
    }
    Ok(names)
}

/// Puts the blobs of an archive into the store.
struct Receiver<'a> {
    store: &'a Store,
    lease: &'a Lease,
    cancel: &'a Cancel,
    writer: Option<BlobWriter>,
}

impl Receive for Receiver<'_> {
    fn begin(&mut self, digest: &Digest, size: u64) -> Result<bool> {
        match self.store.ingest(self.lease, digest, size, self.cancel)? {
            Ingest::Present => Ok(false),
            Ingest::Write(mut writer) => {
                if writer.resume_at() > 0 {
                    writer.restart()?;
                }
                self.writer = Some(writer);
                Ok(true)
            }
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.writer {
            Some(writer) => writer.write(bytes),
            None => Err(Error::new(Kind::Bug, "bytes of a blob that has not begun")),
        }
    }

    fn end(&mut self, digest: &Digest) -> Result<()> {
        match self.writer.take() {
            Some(writer) => writer.commit(digest),
            None => Err(Error::new(
                Kind::Bug,
                "the end of a blob that has not begun",
            )),
        }
    }

    fn read(&mut self, digest: &Digest, most: u64) -> Result<Option<Vec<u8>>> {
        match self.store.blob(digest)? {
            Some(_) => self.store.document(digest, most).map(Some),
            None => Ok(None),
        }
    }

    fn size(&mut self, digest: &Digest) -> Result<Option<u64>> {
        let size = |file: File| file.metadata().map(|m| m.len());
        let found = self.store.blob(digest)?.map(size).transpose();
        found.map_err(|e| Error::host(format!("look at the blob {digest}"), e))
    }
}
