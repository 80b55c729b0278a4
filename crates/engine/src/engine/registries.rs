//! Registries: pushing to them, logging in and out.

use super::Engine;
use crate::{
    error::{Error, Kind, Result},
    image::name::Reference,
    push::{Push, PushRequest, Pushed},
    registry::{Client, CredentialFiles, Credentials, Login, RegistryConfig},
};

impl Engine {
    /// Pushes the image that the request's name stands for to where the name says. Layers whose
    /// blobs are not kept, but their tars, are compressed again.
    ///
    /// # Errors
    /// If there is no such image, its layers can be had in no form, or the registry refuses.
    pub fn push(&self, request: &PushRequest) -> Result<Pushed> {
        let reference = &request.reference;
        let lease = self
            .store
            .lease(&format!("push {}", reference.canonical()))?;
        let image = self.store.resolve(&reference.canonical())?;
        self.store.hold_image(&lease, &image.id)?;
        let layers = self.store.image_layers(&image)?;
        let push = Push {
            store: &self.store,
            driver: &*self.driver,
            scratch: &self.scratch()?,
            client: self.client()?,
            runtime: self.runtime()?.handle(),
            request,
        };
        let pushed = push.run(&image, &layers)?;
        if pushed.instead_of.is_none() {
            let repository = reference.repository();
            self.store
                .add_repo_digest(&image, &repository, &pushed.digest)?;
        }
        let repository = reference.familiar_repository();
        self.tell_image("push", &image.id, &reference.familiar(), &repository);
        Ok(pushed)
    }

    /// The tags that images here have in the repository of `reference`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none.
    pub fn local_tags(&self, reference: &Reference) -> Result<Vec<Reference>> {
        let mut found = Vec::new();
        for image in self.store.images()? {
            for name in &image.names {
                let name = Reference::parse(name)?;
                if name.repository() == reference.repository() {
                    found.push(name);
                }
            }
        }
        if found.is_empty() {
            let m = format!(
                "an image does not exist locally with the tag: {}",
                reference.familiar()
            );
            return Err(
                Error::new(Kind::NotFound, m).with_hint("`unlade images` lists what is here")
            );
        }
        found.sort_by(|a, b| a.tag().cmp(&b.tag()));
        Ok(found)
    }
}

/// Logs in to the registry `domain` and keeps the credentials: returns where.
///
/// # Errors
/// If the registry refuses them, or they cannot be kept.
pub fn login(config: RegistryConfig, domain: &str, credentials: &Credentials) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::host("start the network", e))?;
    let client = Client::new(config)?;
    let Login { keep, .. } = runtime.block_on(client.login_check(domain, credentials))?;
    CredentialFiles::from_environment().store(domain, &keep)
}

/// Forgets the credentials for the registry `domain`. False if there were none.
///
/// # Errors
/// If a file cannot be written or a helper fails.
pub fn logout(domain: &str) -> Result<bool> {
    CredentialFiles::from_environment().erase(domain)
}
