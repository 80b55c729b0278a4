//! Images, and layers to make images of.

use super::tars;
use crate::image;

/// For `erofs_reader`: images as they are, images whose checksum is to be made right, layers.
pub(super) fn erofs() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for input in tars::reader() {
        // The first bytes are flags and cuts of another target.
        let start = input.len() % 512;
        let tar = &input[start..];
        if let Ok(made) = image::index(&[tar]) {
            out.push([&[0], &made[..]].concat());
            out.push([&[2], &made[..]].concat());
        }
        out.push([&[1], tar].concat());
    }
    out
}
