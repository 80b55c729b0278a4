//! Commands that are given several names.

use crate::error::{Error, Result};

/// What `one` gives for each of `names`, without those that fail; and the first failure.
pub(super) fn each<N, T>(names: &[N], one: impl FnMut(&N) -> Result<T>) -> (Vec<T>, Result<()>) {
    let mut failed: Option<Error> = None;
    let mut done = Vec::new();
    for result in names.iter().map(one) {
        match result {
            Ok(one) => done.push(one),
            Err(e) => {
                failed.get_or_insert(e);
            }
        }
    }
    (done, failed.map_or(Ok(()), Err))
}
