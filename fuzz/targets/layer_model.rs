//! Layers from the input, applied to the model in memory and to real directories with both I/O
//! engines: all refuse them, or the trees are equal.
#![no_main]

use std::{env, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use unlade_fuzz::input::Input;

#[path = "../../crates/unpack/tests/support/layers.rs"]
mod layers;

use layers::{Op, Rig, What};

static RIG: LazyLock<Rig> =
    LazyLock::new(|| Rig::new(env::var_os("UNLADE_FUZZ_DIR").map(Into::into)));

fn path(input: &mut Input<'_>) -> String {
    let choice = input.byte();
    let mut path = String::new();
    for i in 0..=choice & 3 {
        if i > 0 {
            path.push('/');
        }
        path.push_str(input.pick(&["a", "b", "c", "d", "..a", "é"]));
    }
    path
}

fn op(input: &mut Input<'_>) -> Op {
    let kind = input.byte();
    let path = path(input);
    let what = match kind % 16 {
        0 | 1 => What::File(u16::from(input.byte())),
        2 => What::File(input.u16() % 20_000),
        3 => {
            let count = input.byte() % 5;
            let map = (0..count).map(|_| (input.u16() % 9000, input.u16() % 600));
            What::Sparse(map.collect(), input.u16() % 9000)
        }
        4..=6 => What::Dir,
        7 | 8 => {
            let prefix = input.pick(&["", "", "/", "../", "./", "../../", "a/../"]);
            What::Symlink(format!("{prefix}{}", self::path(input)))
        }
        9 => What::Symlink(input.pick(&[".", "..", "/", "//", "a//b/"]).to_owned()),
        10 | 11 => What::HardLink(self::path(input)),
        12 => What::Fifo,
        13 | 14 => What::Whiteout,
        _ => What::Opaque,
    };
    let mode = input.pick(&[0o644, 0o755, 0o700, 0o4755, 0, 0o1777, 0o2750]);
    Op { path, what, mode }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut layers = Vec::new();
    while !input.is_empty() && layers.len() < 4 {
        let count = 1 + input.byte() % 24;
        let ops = (0..count).map_while(|_| (!input.is_empty()).then(|| op(&mut input)));
        layers.push(ops.collect());
    }
    // The root is set up by the first layer.
    if layers.is_empty() {
        return;
    }
    if let Err(difference) = RIG.compare(&layers) {
        panic!("{layers:#?}: {difference}");
    }
});
