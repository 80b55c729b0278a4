//! Commands that are given several names.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{say, say_hint};
use crate::error::{Error, Kind, Result};

/// How many are done at the same time, as docker's client does.
const MOST: usize = 50;

/// What `one` gives for each of `names`, without those that fail. Of the failures the last is
/// returned, and those before it are told here.
pub(super) fn each<N, T>(names: &[N], one: impl FnMut(&N) -> Result<T>) -> (Vec<T>, Result<()>) {
    let mut failed: Option<Error> = None;
    let mut done = Vec::new();
    for result in names.iter().map(one) {
        match result {
            Ok(one) => done.push(one),
            Err(e) => {
                // What to do is said once, if it is the same for all.
                let hint = e.hint().map(str::to_owned);
                if let Some(before) = failed.replace(e) {
                    say(&before.to_string());
                    if let Some(other) = before.hint().filter(|b| Some(*b) != hint.as_deref()) {
                        say_hint(other);
                    }
                }
            }
        }
    }
    (done, failed.map_or(Ok(()), Err))
}

/// As [`each`], many at the same time; what they give comes in the order of the names.
pub(super) fn at_once<N: Sync, T: Send>(
    names: &[N],
    one: impl Fn(&N) -> Result<T> + Sync,
) -> (Vec<T>, Result<()>) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut ends = Vec::new();
        while let Some((at, name)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            names.get(at).map(|name| (at, name))
        } {
            ends.push((at, one(name)));
        }
        ends
    };
    if names.len() < 2 {
        return each(names, one);
    }
    let mut ends: BTreeMap<usize, Result<T>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..names.len().min(MOST))
            .map(|_| scope.spawn(work))
            .collect();
        // What one that panicked was at has no end, and is told of below.
        workers
            .into_iter()
            .filter_map(|w| w.join().ok())
            .flatten()
            .collect()
    });
    let mut at = 0..names.len();
    each(names, |_| {
        let end = at.next().and_then(|at| ends.remove(&at));
        end.unwrap_or_else(|| Err(Error::new(Kind::Bug, "a thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_an_end_in_order() {
        let names: Vec<usize> = (0..3 * MOST).collect();
        let one = |n: &usize| match n % 10 {
            7 => Err(Error::new(Kind::NotFound, format!("no {n}"))),
            _ => Ok(*n),
        };
        for (done, end) in [at_once(&names, one), each(&names, one)] {
            let good: Vec<usize> = names.iter().copied().filter(|n| n % 10 != 7).collect();
            assert_eq!(done, good);
            assert_eq!(end.unwrap_err().message(), "no 147");
        }
        assert_eq!(at_once(&[3], one).0, [3]);
    }
}
