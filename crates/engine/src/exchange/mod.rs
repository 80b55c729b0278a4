//! Files between the host and a container's root, and layers of what changed in one.
//!
//! Nothing here knows containers: it is given a root directory by descriptor. Every path in that
//! root is walked by the kernel inside it (`openat2`, `RESOLVE_IN_ROOT`), opened once, and used by
//! descriptor from then on; nothing that is in it is run, and what it says is never a path of the
//! host.

mod extract;
mod layer;
mod pipe;
mod resolve;
mod words;

pub(crate) use self::{
    extract::{Extract, Owner},
    layer::{hide_own, pack_changes},
    pipe::{receive, transfer},
    resolve::{
        Dest, Source, dest_in_root, dest_on_host, is_of_memory, open_in, source_in_root,
        source_on_host,
    },
    words::{Asked, End, place},
};
