//! The OCI runtime spec of a container, assembled from its image, the user's wishes and the host.
//!
//! [`merge`] completes a request with what its image says, as `inspect` shows it; [`assemble`]
//! makes the spec of it. Both are pure: what has to be looked up is looked up before, by
//! [`HostFacts::gather`], [`user::resolve`], [`devices::find`] and
//! [`security::read_profile`].

pub mod host;
pub mod image;
pub mod place;
pub mod request;

pub use self::{
    host::HostFacts,
    image::ImageConfig,
    place::{
        CgroupNs, DeviceNode, Files, IdMapping, ImageSecurity, Ns, Placement, ResolvedUser,
        RuntimeFacts, Shm,
    },
    request::Request,
};
