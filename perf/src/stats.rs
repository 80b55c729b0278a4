//! Medians, ratios of paired rounds, and the Mann-Whitney U rank test.

use serde::{Deserialize, Serialize};

/// The figures to quote of a set of runs, in the unit of the runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Smallest.
    pub(crate) min: f64,
    /// Middle one, or the mean of the middle two.
    pub(crate) median: f64,
    /// Largest.
    pub(crate) max: f64,
}

/// The spread of some values; nothing if there are none.
pub(crate) fn spread(values: &[f64]) -> Option<Spread> {
    let sorted = sorted(values);
    let (&min, &max) = (sorted.first()?, sorted.last()?);
    Some(Spread {
        min,
        median: quantile_of_sorted(&sorted, 0.5),
        max,
    })
}

/// The quantile `q` (0 to 1) of some values, interpolated; nothing if there are none.
pub(crate) fn quantile(values: &[f64], q: f64) -> Option<f64> {
    (!values.is_empty()).then(|| quantile_of_sorted(&sorted(values), q))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let low = place.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * place.fract()
}

/// The spread of `a/b`, round by round: drift of the machine's speed cancels out.
pub(crate) fn paired_ratio(a: &[f64], b: &[f64]) -> Option<Spread> {
    let ratios: Vec<f64> = a
        .iter()
        .zip(b)
        .filter(|&(_, &below)| below > 0.0)
        .map(|(a, b)| a / b)
        .collect();
    spread(&ratios)
}

/// The spread of `a-b`, round by round.
pub(crate) fn paired_difference(a: &[f64], b: &[f64]) -> Option<Spread> {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    spread(&differences)
}

/// Two-sided p value of the Mann-Whitney U test: how likely two samples of one distribution
/// differ in rank at least as much as these. Exact without ties in small samples, else by the
/// normal approximation with corrections for ties and continuity.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn mann_whitney_p(a: &[f64], b: &[f64]) -> f64 {
    let (n, m) = (a.len(), b.len());
    if n == 0 || m == 0 {
        return 1.0;
    }
    let wins = |x: f64| -> f64 {
        b.iter()
            .map(|&y| {
                if x > y {
                    1.0
                } else if x < y {
                    0.0
                } else {
                    0.5
                }
            })
            .sum()
    };
    let u: f64 = a.iter().map(|&x| wins(x)).sum();
    let ties = tie_sizes(a, b);
    if ties.is_empty() && n * m <= 2_500 {
        return exact_p(n, m, u);
    }
    let (nf, mf) = (n as f64, m as f64);
    let total = nf + mf;
    let tied: f64 = ties.iter().map(|t| t.powi(3) - t).sum();
    let variance = nf * mf / 12.0 * (total + 1.0 - tied / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = ((u - nf * mf / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    erfc(z / std::f64::consts::SQRT_2).min(1.0)
}

/// Sizes of the groups of equal values, in both samples together.
#[allow(clippy::cast_precision_loss)]
fn tie_sizes(a: &[f64], b: &[f64]) -> Vec<f64> {
    let all = sorted(&[a, b].concat());
    all.chunk_by(|x, y| x == y)
        .filter(|group| group.len() > 1)
        .map(|g| g.len() as f64)
        .collect()
}

/// Counts the arrangements of `n` and `m` values whose U is as far from the middle as `u`.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn exact_p(n: usize, m: usize, u: f64) -> f64 {
    let largest = n * m;
    // ways[i][s]: choices of i of the values placed so far whose U sums to s.
    let mut ways = vec![vec![0.0_f64; largest + 1]; n + 1];
    ways[0][0] = 1.0;
    for place in 0..n + m {
        for chosen in (0..n.min(place + 1)).rev() {
            // The next value is one of ours; `place - chosen` of the other sample lie below it.
            let below = place - chosen;
            if below > m {
                continue;
            }
            for sum in (below..=largest).rev() {
                let add = ways[chosen][sum - below];
                ways[chosen + 1][sum] += add;
            }
        }
    }
    let total: f64 = ways[n].iter().sum();
    let lower = u.min(largest as f64 - u) as usize;
    let tail: f64 = ways[n][..=lower].iter().sum();
    (2.0 * tail / total).min(1.0)
}

/// The complementary error function, to 1.2e-7 (Numerical Recipes, `erfcc`); for `x >= 0`.
fn erfc(x: f64) -> f64 {
    const TERMS: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let t = 1.0 / (1.0 + 0.5 * x);
    let sum = TERMS.iter().rev().fold(0.0, |sum, term| sum * t + term);
    t * (sum - x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }

    #[test]
    fn spreads_of_odd_even_and_no_values() {
        assert_eq!(
            spread(&[3.0, 1.0, 2.0]),
            Some(Spread {
                min: 1.0,
                median: 2.0,
                max: 3.0
            })
        );
        assert_eq!(spread(&[4.0, 1.0]).map(|s| s.median), Some(2.5));
        assert_eq!(spread(&[]), None);
        assert_eq!(quantile(&[0.0, 10.0], 0.9), Some(9.0));
    }

    #[test]
    fn ratios_pair_rounds() {
        let ratio = paired_ratio(&[2.0, 30.0, 6.0], &[1.0, 10.0, 2.0]).unwrap();
        assert_eq!(
            ratio,
            Spread {
                min: 2.0,
                median: 3.0,
                max: 3.0
            }
        );
        assert_eq!(paired_ratio(&[1.0], &[0.0]), None);
    }

    // Values of the tests below: scipy.stats.mannwhitneyu, two-sided.
    #[test]
    fn exact_p_values() {
        close(
            mann_whitney_p(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]),
            0.007_936_507_936_507_936,
            1e-12,
        );
        close(
            mann_whitney_p(&[19.0, 22.0, 16.0, 29.0, 24.0], &[20.0, 11.0, 17.0, 12.0]),
            0.111_111_111_111_111_1,
            1e-12,
        );
        close(
            mann_whitney_p(&[1.0, 3.0, 5.0], &[2.0, 4.0, 6.0]),
            0.7,
            1e-12,
        );
    }

    #[test]
    fn the_order_of_samples_does_not_matter() {
        let (a, b) = ([1.0, 4.0, 9.0, 2.5], [3.0, 5.0, 8.0, 11.0, 12.0]);
        close(mann_whitney_p(&a, &b), mann_whitney_p(&b, &a), 1e-12);
    }

    #[test]
    fn tied_values_use_the_normal_approximation() {
        close(
            mann_whitney_p(&[1.0, 2.0, 2.0, 3.0, 4.0], &[2.0, 3.0, 5.0, 6.0, 7.0]),
            0.111_611_768_298_292_24,
            1e-6,
        );
        close(mann_whitney_p(&[1.0; 5], &[1.0; 5]), 1.0, 0.0);
    }
}
