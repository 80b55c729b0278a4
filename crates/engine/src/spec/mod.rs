//! The OCI runtime spec of a container, assembled from its image, the user's wishes and the host.
//!
//! [`merge`] completes a request with what its image says, as `inspect` shows it; [`assemble`]
//! makes the spec of it. Both are pure: what has to be looked up is looked up before, by
//! [`HostFacts::gather`], [`user::resolve`], [`devices::find`] and
//! [`security::read_profile`].
//!
//! An image is input from strangers: its values are checked, what it may do to the container's
//! security is to tighten it, and none of it becomes an annotation, which runtimes act on.

mod assemble;
pub mod blkio;
mod bounds;
mod caps;
pub mod cdi;
mod check;
pub mod devices;
mod effective;
pub mod explain;
pub mod host;
pub mod image;
mod merge;
mod mounts;
pub mod place;
mod process;
pub mod request;
mod resources;
pub mod rlimits;
mod seccomp;
pub mod security;
pub mod signal;
pub mod size;
mod sysctls;
pub mod user;

pub use self::{
    assemble::{Assembled, assemble, hostname},
    check::check,
    effective::effective,
    explain::{Field, Origin},
    host::HostFacts,
    image::ImageConfig,
    merge::merge,
    place::{
        CgroupNs, DeviceNode, Files, IdMapping, ImageSecurity, Ns, Placement, ResolvedUser,
        RuntimeFacts, Shm,
    },
    process::{ExecRequest, exec},
    request::Request,
};
