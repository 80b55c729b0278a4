//! Containers: the use cases of [`crate::container`] on this engine's store.

use std::{fs, io};

use rustix::fs::{FlockOperation, flock};

use super::Engine;
use crate::{
    container::{Begin, Begun, Containers, Made, New, Record},
    error::{Error, Result},
    image::{config::MAX_BYTES, full::FullConfig},
    shim,
    spec::{Field, request::Request},
    store::Image,
};

impl Engine {
    /// The containers of this engine, once what killed processes and an earlier boot have left is
    /// taken up.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn containers(&self) -> Result<Containers<'_>> {
        let containers = Containers::new(&self.store, &*self.driver, &self.config);
        self.after_boot(&containers)?;
        containers.recover()?;
        Ok(containers)
    }

    /// The first command of a boot clears up after the one before.
    fn after_boot(&self, containers: &Containers<'_>) -> Result<()> {
        let mark = self.config.run_root.join("boot");
        let boot = format!("{}\n{}\n", shim::boot_id(), self.driver.kind().name());
        if fs::read(&mark).is_ok_and(|b| b == boot.as_bytes()) {
            return Ok(());
        }
        let failed = |e: io::Error| Error::host(format!("write `{}`", mark.display()), e);
        fs::create_dir_all(&self.config.run_root).map_err(failed)?;
        let lock = fs::File::create(self.config.run_root.join("boot.lock")).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        if fs::read(&mark).is_ok_and(|b| b == boot.as_bytes()) {
            return Ok(());
        }
        // Without a mark there is nothing: the run root is in memory, or new.
        let before = fs::read_to_string(&mark).unwrap_or_default();
        let before = before.lines().next().unwrap_or_default();
        containers.recover_boot(!before.is_empty() && before != shim::boot_id())?;
        self.forget_stale_mounts()?;
        fs::write(&mark, boot).map_err(failed)
    }

    /// Starts, once in a boot, the containers whose restart policies ask for it; `each` is told
    /// what became of them.
    ///
    /// # Errors
    /// If the host refuses, or `each` fails.
    pub fn start_after_boot(
        &self,
        begin: &Begin,
        each: &mut dyn FnMut(&Record, Result<()>) -> Result<()>,
    ) -> Result<()> {
        let containers = self.containers()?;
        let path = self.config.run_root.join("policies.lock");
        let failed = |e: io::Error| Error::host(format!("lock `{}`", path.display()), e);
        let lock = fs::File::create(&path).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        for record in containers.due()? {
            if !containers.still_due(&record)? {
                continue;
            }
            let begun = containers.start(&record, begin);
            let done = begun.and_then(|begun| match begun {
                Begun::Refused(refusal) => Err(refusal.error()),
                Begun::Running(_) | Begun::Already => Ok(()),
            });
            each(&record, done)?;
        }
        Ok(())
    }

    /// Makes a container of an image.
    ///
    /// # Errors
    /// As [`Containers::create`]'s.
    pub fn create(
        &self,
        containers: &Containers<'_>,
        image: &Image,
        request: Request,
        name: Option<String>,
        transient: bool,
    ) -> Result<Made> {
        let bytes = self.store.document(&image.id, MAX_BYTES)?;
        let config = FullConfig::parse(bytes)?;
        let layers = self.layer_ids(image)?;
        containers.create(New {
            image,
            config: &config,
            layers: &layers,
            request,
            name,
            transient,
        })
    }

    /// The fields of the spec that a container of that image would get, and where each comes from.
    /// Nothing is made.
    ///
    /// # Errors
    /// As [`Engine::create`], as far as the request is at fault.
    pub fn explain(&self, image: &Image, request: Request) -> Result<Vec<Field>> {
        let bytes = self.store.document(&image.id, MAX_BYTES)?;
        let config = FullConfig::parse(bytes)?;
        let layers = self.layer_ids(image)?;
        let containers = Containers::new(&self.store, &*self.driver, &self.config);
        containers.explain_new(&config, &layers, request)
    }
}
