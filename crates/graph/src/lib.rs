//! Layers and copy-on-write snapshots on this host's file systems.

pub mod driver;
pub mod erofs;
pub mod layout;
pub mod mount;
pub mod remove;
mod sys;
