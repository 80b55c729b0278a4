//! Docker's content trust, which is signatures by Notary: there is none here.

use clap::Args;

use crate::error::{Error, Kind, Result};

#[derive(Debug, Args)]
pub(super) struct Trust {
    /// Has no effect, since no signatures are verified: digests are.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set, value_name = "BOOL", require_equals = true,
          hide_possible_values = true, hide_default_value = true)]
    disable_content_trust: bool,
}

impl Trust {
    /// Refuses to act as if signatures were verified.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for `--disable-content-trust=false`.
    pub(super) fn check(&self) -> Result<()> {
        if self.disable_content_trust {
            return Ok(());
        }
        let m = "--disable-content-trust=false: unlade verifies no signatures of images";
        Err(Error::new(Kind::Unsupported, m)
            .with_hint("name the image by its digest, which is verified: NAME@sha256:…"))
    }
}
