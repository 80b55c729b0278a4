#![doc = include_str!("../README.md")]
//!
//! # On disk
//!
//! Every driver has a directory of its own, laid out as [`layout`] says. What it puts there is
//! said at the head of its module.

mod btrfs;
pub mod copy;
mod diff;
pub mod driver;
pub mod erofs;
pub mod erofs_driver;
mod info;
pub mod layout;
pub mod mount;
pub mod overlay;
pub mod probe;
mod quota;
pub mod remove;
mod roots;
mod snapshot;
mod sys;
pub mod trees;
mod verify;
pub mod walk;
