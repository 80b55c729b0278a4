//! Tars written: their headers, and what is on disk as entries.

mod header;
mod pack;

pub(crate) use self::{
    header::{Header, Type, end, pad, write},
    pack::{Enter, HANDLE, Packer},
};
