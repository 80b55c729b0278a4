//! Random layers, mounted.

use proptest::prelude::*;

use crate::{
    kernel, layers,
    model::op,
    store::{Store, compare_store},
};

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("UNLADE_MOUNT_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn mounted_and_applied_agree(
        layers in prop::collection::vec(prop::collection::vec(op(), 1..12), 1..5)
    ) {
        if kernel::may_mount() {
            let tars: Vec<Vec<u8>> = layers.iter().map(|ops| layers::layer(ops)).collect();
            let (_dir, paths) = crate::store::write(&tars);
            let store = Store::over(paths.clone());
            compare_store(store, &paths, u64::MAX).map_err(TestCaseError::fail)?;
        }
    }
}
