//! Random layers: an index over them says of every path what `TreeSink` does, or both refuse.

use proptest::prelude::*;
use unlade_unpack::Unpacker;

use crate::{
    layers::{self, Op, What},
    memory,
};

thread_local! {
    static UNPACKER: Unpacker = Unpacker::new().memory_budget_bytes(8 << 20).threads(1);
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..5).prop_map(|p| p.join("/"))
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let target = prop_oneof![
        path(),
        path().prop_map(|p| format!("/{p}")),
        path().prop_map(|p| format!("../{p}")),
        (path(), path()).prop_map(|(a, b)| format!("{a}/../{b}")),
        Just(".".to_owned()),
    ];
    let what = prop_oneof![
        5 => (0_u16..2000).prop_map(What::File),
        2 => (prop::collection::vec((0_u16..9000, 0_u16..600), 0..5), 0_u16..9000)
            .prop_map(|(map, end)| What::Sparse(map, end)),
        1 => (prop::collection::vec((0_u16..9, 0_u16..5), 0..5), 0_u16..9000)
            .prop_map(|(map, end)| {
                What::Sparse(map.iter().map(|(a, b)| (a * 512, b * 512)).collect(), end)
            }),
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
        cases: std::env::var("UNLADE_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn index_and_model_agree(
        layers in prop::collection::vec(prop::collection::vec(op(), 1..9), 1..4)
    ) {
        let tars: Vec<Vec<u8>> = layers.iter().map(|ops| layers::layer(ops)).collect();
        let model = UNPACKER.with(|u| memory::model(&tars, u));
        let built = memory::build(&tars);
        match (model, built) {
            (Ok(model), Ok(built)) => {
                let want = memory::facts_of_model(&model);
                prop_assert_eq!(&memory::facts_of_image(&built.image, &built.devices).unwrap(), &want);
                prop_assert_eq!(&memory::build(&tars).unwrap().image, &built.image);
            }
            (Err(_), Err(_)) => {}
            (model, built) => prop_assert!(false, "model {:?}, index {:?}", model.err(), built.err()),
        }
    }
}

#[test]
fn an_entry_through_a_symlink_that_is_hidden_after_it() {
    layers::symlinks_hidden_after_use(|layers| {
        let tars: Vec<Vec<u8>> = layers.iter().map(|ops| layers::layer(ops)).collect();
        memory::build(&tars).err().map(|e| e.to_string())
    });
}
