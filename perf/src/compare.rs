//! Two builds of unlade against each other: interleaved runs and a rank test.

use crate::markdown::{bracketed, rss_mib, values};
use crate::measure::Sample;
use crate::run::{Case, Row};
use crate::stats::{Spread, mann_whitney_p, spread};

/// A difference rarer than this by chance alone is not noise.
const P: f64 = 0.01;
/// A ratio of medians above this is worth failing for.
const RATIO: f64 = 1.03;

/// A figure to compare: name, unit digits, how to get it, whether a regression in it fails.
type Figure = (&'static str, usize, fn(&Sample) -> f64, bool);

const FIGURES: [Figure; 3] = [
    ("wall s", 3, |sample| sample.wall, true),
    ("CPU s", 3, Sample::cpu, true),
    ("peak RSS MiB", 1, rss_mib, false),
];

/// One figure of A (before) and B (after).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    a: Spread,
    b: Spread,
    /// Median of B over median of A.
    ratio: f64,
    /// Two-sided p value of the rank test.
    p: f64,
}

impl Verdict {
    fn of(a: &[f64], b: &[f64]) -> Option<Self> {
        let (before, after) = (spread(a)?, spread(b)?);
        let ratio = after.median / before.median;
        Some(Self {
            a: before,
            b: after,
            ratio,
            p: mann_whitney_p(a, b),
        })
    }

    fn is_regression(&self) -> bool {
        self.p < P && self.ratio > RATIO
    }

    fn word(&self) -> &'static str {
        if self.p >= P {
            "no difference"
        } else if self.is_regression() {
            "REGRESSION"
        } else if self.ratio < 1.0 / RATIO {
            "better"
        } else {
            "below 3 %"
        }
    }
}

/// The table of all cases, whose rows are A and B, and whether B is to be refused.
pub(crate) fn judge(cases: &[Case]) -> (String, bool) {
    let mut out = String::from(
        "| workload | fs | figure | A | B | B / A | p | |\n|---|---|---|---|---|---|---|---|\n",
    );
    let mut refused = false;
    for case in cases {
        let place = format!("| {} | {} |", case.workload, case.fs.name());
        let [a, b] = case.rows.as_slice() else {
            continue;
        };
        if let Some(why) = trouble(a).or_else(|| trouble(b)) {
            out.push_str(&format!("{place} FAILED | {why} | | | | |\n"));
            refused = true;
            continue;
        }
        if a.tree != b.tree {
            out.push_str(&format!(
                "{place} trees differ | {:?} | {:?} | | | |\n",
                a.tree, b.tree
            ));
            refused = true;
        }
        for (name, digits, figure, gates) in FIGURES {
            let Some(verdict) = Verdict::of(&values(a, figure), &values(b, figure)) else {
                continue;
            };
            refused |= gates && verdict.is_regression();
            let (before, after) = (
                bracketed(Some(verdict.a), digits),
                bracketed(Some(verdict.b), digits),
            );
            out.push_str(&format!(
                "{place} {name} | {before} | {after} | {:.3} | {:.4} | {} |\n",
                verdict.ratio,
                verdict.p,
                verdict.word()
            ));
        }
    }
    (out, refused)
}

fn trouble(row: &Row) -> Option<String> {
    let why = row.error.as_ref().or(row.skipped.as_ref())?;
    Some(format!("{}: {}", row.name, why.replace('\n', " ")))
}

/// Rounds below which no difference can reach the p value asked for (two-sided, exact).
pub(crate) const LEAST_RUNS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn around(middle: f64, runs: u32) -> Vec<f64> {
        (0..runs)
            .map(|run| middle * (1.0 + f64::from(run) * 1e-4))
            .collect()
    }

    #[test]
    fn a_clear_slowdown_is_a_regression() {
        let verdict = Verdict::of(&around(1.0, 7), &around(1.1, 7)).unwrap();
        assert!(verdict.is_regression());
        assert_eq!(verdict.word(), "REGRESSION");
        let verdict = Verdict::of(&around(1.1, 7), &around(1.0, 7)).unwrap();
        assert_eq!(verdict.word(), "better");
    }

    #[test]
    fn a_certain_but_small_slowdown_is_none() {
        let verdict = Verdict::of(&around(1.0, 9), &around(1.02, 9)).unwrap();
        assert!(verdict.p < P && !verdict.is_regression());
    }

    #[test]
    fn noise_is_no_regression() {
        let verdict =
            Verdict::of(&[1.0, 1.4, 1.1, 1.3, 1.0], &[1.2, 1.05, 1.5, 1.1, 1.35]).unwrap();
        assert_eq!(verdict.word(), "no difference");
    }

    #[test]
    fn fewest_runs_can_reach_the_p_value() {
        let runs = u32::try_from(LEAST_RUNS).unwrap();
        assert!(mann_whitney_p(&around(1.0, runs), &around(2.0, runs)) < P);
        assert!(mann_whitney_p(&around(1.0, runs - 1), &around(2.0, runs - 1)) > P);
    }
}
