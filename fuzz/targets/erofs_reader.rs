//! The EROFS reader takes any bytes; what the writer makes of any layers it finds without fault.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlade_fuzz::{archive::fix_sums, image, input::Input};
use unlade_graph::erofs::{dump::dump, format, reader::Image};

/// Makes the superblock's magic and checksum right, so that more than those is tried.
fn fix(image: &mut [u8]) {
    let Some(block) = image.get_mut(1024..1536) else {
        return;
    };
    block[..4].copy_from_slice(&format::MAGIC.to_le_bytes());
    // Smaller images have blocks of 512 bytes.
    let sum = format::checksum(block);
    block[4..8].copy_from_slice(&sum.to_le_bytes());
}

fn read(bytes: &[u8]) {
    if let Ok(image) = Image::open(bytes) {
        let checked = image.check();
        // A dump may be larger than the image, so not of all that is readable.
        if checked.is_ok() && bytes.len() < 1 << 14 {
            dump(&image).unwrap();
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.byte();
    let mut bytes = input.0.to_vec();
    if flags & 1 == 0 {
        if flags & 2 != 0 {
            fix(&mut bytes);
        }
        read(&bytes);
        return;
    }
    // One layer, or two of what is there.
    let half = bytes.len() / 1024 * 512;
    let (lower, upper) = bytes.split_at_mut(if flags & 4 == 0 { 0 } else { half });
    fix_sums(lower);
    fix_sums(upper);
    for made in [image::index(&[lower, upper]), image::full(&[lower, upper])] {
        if let Ok(made) = made {
            let image = Image::open(&made).unwrap();
            image.check().unwrap();
        }
    }
});
