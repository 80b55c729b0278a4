//! Ids of what is recorded and has no digest.

use crate::error::{Error, Kind, Result};

/// 64 random hexadecimal digits.
///
/// # Errors
/// If the host has no random bytes.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(Kind::Host, format!("get random bytes: {e}")))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
