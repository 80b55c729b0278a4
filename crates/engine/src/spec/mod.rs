//! The OCI runtime spec of a container, assembled from its image, the user's wishes and the host.

pub mod request;
