//! Archives: what is written reads back, here and by other tools, and what others wrote loads.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod importing;
mod loading;
mod peers;
mod saving;
mod support;
