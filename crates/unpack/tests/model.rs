//! Random layers over a small set of names, applied to a `TreeSink` and to a real directory with
//! both I/O engines: all accept or refuse alike, and the trees are equal.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;

#[path = "support/layers.rs"]
mod layers;

use layers::{Op, Rig, What};

thread_local! {
    static RIG: Rig = Rig::new(None);
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|p| p.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let target = prop_oneof![
        path(),
        path().prop_map(|p| format!("/{p}")),
        path().prop_map(|p| format!("../{p}")),
        Just(".".to_owned()),
    ];
    let what = prop_oneof![
        5 => (0_u16..2000).prop_map(What::File),
        1 => (prop::collection::vec((0_u16..9000, 0_u16..600), 0..5), 0_u16..9000)
            .prop_map(|(map, end)| What::Sparse(map, end)),
        4 => Just(What::Dir),
        2 => target.prop_map(What::Symlink),
        2 => path().prop_map(What::HardLink),
        1 => Just(What::Fifo),
        3 => Just(What::Whiteout),
        2 => Just(What::Opaque),
    ];
    let mode = prop::sample::select(vec![0o644, 0o755, 0o700, 0o4755, 0o555, 0]);
    (path(), what, mode).prop_map(|(path, what, mode)| Op { path, what, mode })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("UNLADE_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn model_and_directory_agree(
        layers in prop::collection::vec(prop::collection::vec(op(), 1..9), 1..4)
    ) {
        RIG.with(|rig| rig.compare(&layers)).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn an_entry_through_a_symlink_that_is_hidden_after_it() {
    layers::symlinks_hidden_after_use(|layers| RIG.with(|rig| rig.refusal(layers)));
}
