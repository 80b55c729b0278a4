//! Layers and copy-on-write snapshots on this host's file systems.

mod diff;
pub mod driver;
mod info;
pub mod layout;
pub mod mount;
pub mod overlay;
pub mod remove;
mod roots;
mod snapshot;
mod sys;
mod verify;
mod walk;
