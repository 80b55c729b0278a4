//! Layers and copy-on-write snapshots on this host's file systems.

mod btrfs;
mod copy;
mod diff;
pub mod driver;
pub mod erofs;
mod info;
pub mod layout;
pub mod mount;
pub mod overlay;
pub mod probe;
pub mod remove;
mod roots;
mod snapshot;
mod sys;
pub mod trees;
mod verify;
mod walk;
