//! What the conditions of a rule let through, as sets of numbers that can be intersected and
//! taken away from each other.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator as Op};

use crate::error::{Error, Kind, Result};

/// Most alternatives of one system call: beyond, nothing is let through.
const MOST: usize = 64;
/// Most lists of conditions that they become.
const MOST_LISTS: usize = 256;

/// Closed intervals, in order and apart from each other.
type Set = Vec<(u64, u64)>;

/// What one argument must be: in a set, and under masks. No condition is `0..=MAX` and none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Values {
    set: Set,
    masks: Vec<(u64, u64)>,
}

/// What all arguments must be together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Case(BTreeMap<usize, Values>);

/// Any of some cases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cases(Vec<Case>);

fn both(a: &Set, b: &Set) -> Set {
    let mut out = Vec::new();
    for (low, high) in a {
        for (other_low, other_high) in b {
            let (l, h) = (*low.max(other_low), *high.min(other_high));
            if l <= h {
                out.push((l, h));
            }
        }
    }
    out.sort_unstable();
    out
}

fn complement(set: &Set) -> Set {
    let (mut out, mut next) = (Vec::new(), Some(0));
    for (low, high) in set {
        if let Some(from) = next
            && from < *low
        {
            out.push((from, low - 1));
        }
        next = high.checked_add(1);
    }
    out.extend(next.map(|from| (from, u64::MAX)));
    out
}

fn of(op: Op, v: u64) -> Set {
    let below = |v: u64| v.checked_sub(1).map(|h| (0, h));
    let above = |v: u64| v.checked_add(1).map(|l| (l, u64::MAX));
    match op {
        Op::ScmpCmpEq => vec![(v, v)],
        Op::ScmpCmpNe => below(v).into_iter().chain(above(v)).collect(),
        Op::ScmpCmpLt => below(v).into_iter().collect(),
        Op::ScmpCmpLe => vec![(0, v)],
        Op::ScmpCmpGe => vec![(v, u64::MAX)],
        Op::ScmpCmpGt => above(v).into_iter().collect(),
        // Held apart: a mask is no interval.
        Op::ScmpCmpMaskedEq => vec![(0, u64::MAX)],
    }
}

impl Values {
    fn new(arg: &LinuxSeccompArg) -> Self {
        let mut masks = Vec::new();
        if arg.op() == Op::ScmpCmpMaskedEq {
            masks.push((arg.value(), arg.value_two().unwrap_or(0)));
        }
        Self {
            set: of(arg.op(), arg.value()),
            masks,
        }
    }

    /// Everything else; `None` where that cannot be said.
    fn opposite(&self) -> Option<Self> {
        self.masks.is_empty().then(|| Self {
            set: complement(&self.set),
            masks: Vec::new(),
        })
    }

    fn and(&self, other: &Self) -> Self {
        let mut masks = self.masks.clone();
        masks.extend(other.masks.iter().filter(|m| !self.masks.contains(m)));
        let mut set = both(&self.set, &other.set);
        // One number is under a mask or is not.
        let passes = |n: u64| masks.iter().all(|(mask, v)| n & mask == *v);
        set.retain(|(l, h)| l != h || passes(*l));
        // Masks that want one bit both ways let nothing through.
        let differ = |(m, v): (u64, u64), (n, w): (u64, u64)| (v ^ w) & m & n != 0;
        if masks.iter().any(|a| masks.iter().any(|b| differ(*a, *b))) {
            set.clear();
        }
        let numbers = !set.is_empty() && set.iter().all(|(l, h)| l == h);
        Self {
            set,
            masks: if numbers { Vec::new() } else { masks },
        }
    }

    /// Conditions of which each, alone, lets a part through; together all of it. What one
    /// condition cannot say is left out: less is let through, never more.
    fn conditions(&self) -> Vec<(Op, u64, Option<u64>)> {
        const FEW: u64 = 32;
        let whole = self.set == [(0, u64::MAX)];
        match (&self.masks[..], whole) {
            ([(mask, value)], true) => return vec![(Op::ScmpCmpMaskedEq, *mask, Some(*value))],
            ([], _) => {}
            _ => return Vec::new(),
        }
        let mut out = Vec::new();
        for (low, high) in &self.set {
            match (*low, *high) {
                (l, h) if l == h => out.push((Op::ScmpCmpEq, l, None)),
                (0, h) => out.push((Op::ScmpCmpLe, h, None)),
                (l, u64::MAX) => out.push((Op::ScmpCmpGe, l, None)),
                (l, h) if h - l < FEW => out.extend((l..=h).map(|n| (Op::ScmpCmpEq, n, None))),
                _ => {}
            }
        }
        out
    }
}

impl Case {
    fn new(args: &[LinuxSeccompArg]) -> Self {
        let mut out = Self::default();
        for arg in args {
            out.restrict(arg.index(), &Values::new(arg));
        }
        out
    }

    fn restrict(&mut self, index: usize, values: &Values) {
        let now = match self.0.get(&index) {
            Some(had) => had.and(values),
            None => values.clone(),
        };
        self.0.insert(index, now);
    }

    fn is_empty(&self) -> bool {
        self.0.values().any(|v| v.set.is_empty())
    }

    fn conditions(&self) -> Result<Vec<Vec<LinuxSeccompArg>>> {
        let mut lists: Vec<Vec<LinuxSeccompArg>> = vec![Vec::new()];
        for (index, values) in &self.0 {
            let mut longer = Vec::new();
            for (op, value, two) in values.conditions() {
                let arg = arg(*index, op, value, two)?;
                let room = MOST_LISTS - longer.len();
                longer.extend(lists.iter().take(room).map(|l| [&l[..], &[arg]].concat()));
            }
            lists = longer;
        }
        Ok(lists)
    }
}

impl Cases {
    /// Whatever the arguments are.
    pub(super) fn always() -> Self {
        Self(vec![Case::default()])
    }

    /// Never.
    pub(super) fn never() -> Self {
        Self::default()
    }

    pub(super) fn is_never(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets through what a rule with these conditions does, too.
    pub(super) fn add(&mut self, args: &[LinuxSeccompArg]) {
        self.0.push(Case::new(args));
        self.tidy();
    }

    fn tidy(&mut self) {
        self.0.retain(|c| !c.is_empty());
        if self.0.iter().any(|c| c.0.is_empty()) {
            *self = Self::always();
        }
        if self.0.len() > MOST {
            *self = Self::never();
        }
    }

    /// Takes away what a rule with these conditions is about.
    pub(super) fn remove(&mut self, args: &[LinuxSeccompArg]) {
        let taken = Case::new(args);
        if taken.is_empty() {
            return;
        }
        let mut left = Vec::new();
        for case in &self.0 {
            let mut common = case.clone();
            for (index, values) in &taken.0 {
                common.restrict(*index, values);
            }
            if common.is_empty() {
                left.push(case.clone());
                continue;
            }
            for (index, values) in &taken.0 {
                // All that differs in this argument stays.
                if let Some(opposite) = values.opposite() {
                    let mut case = case.clone();
                    case.restrict(*index, &opposite);
                    left.push(case);
                }
            }
        }
        self.0 = left;
        self.tidy();
    }

    /// What both let through.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut out = Self::never();
        for a in &self.0 {
            for b in &other.0 {
                let mut case = a.clone();
                for (index, values) in &b.0 {
                    case.restrict(*index, values);
                }
                out.0.push(case);
            }
        }
        out.tidy();
        out
    }

    /// Lists of conditions, each for a rule of its own; an empty one is for a rule without. Those
    /// beyond [`MOST_LISTS`] are left out: less is let through, never more.
    pub(super) fn conditions(&self) -> Result<Vec<Vec<LinuxSeccompArg>>> {
        let mut out: Vec<Vec<LinuxSeccompArg>> = Vec::new();
        for case in &self.0 {
            for list in case.conditions()? {
                if out.len() < MOST_LISTS && !out.contains(&list) {
                    out.push(list);
                }
            }
        }
        Ok(out)
    }
}

fn arg(index: usize, op: Op, value: u64, two: Option<u64>) -> Result<LinuxSeccompArg> {
    let built = LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value);
    let built = match two {
        Some(two) => built.value_two(two),
        None => built,
    }
    .build();
    built.map_err(|e| Error::new(Kind::Bug, e.to_string()))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::{super::tests::holds, *};

    fn args(list: &[(usize, Op, u64)]) -> Vec<LinuxSeccompArg> {
        list.iter()
            .map(|(i, op, v)| arg(*i, *op, *v, (*op == Op::ScmpCmpMaskedEq).then_some(0)).unwrap())
            .collect()
    }

    /// Whether a call is let through by rules of which each is one list of conditions.
    fn lets(rules: &[Vec<LinuxSeccompArg>], call: [u64; 2]) -> bool {
        rules.iter().any(|r| r.iter().all(|c| holds(c, &call)))
    }

    #[test]
    fn sets() {
        let set = of(Op::ScmpCmpNe, 5);
        assert_eq!(set, [(0, 4), (6, u64::MAX)]);
        assert_eq!(complement(&set), [(5, 5)]);
        assert_eq!(complement(&vec![]), [(0, u64::MAX)]);
        assert_eq!(complement(&of(Op::ScmpCmpGe, 0)), []);
        assert_eq!(of(Op::ScmpCmpLt, 0), []);
        assert_eq!(of(Op::ScmpCmpGt, u64::MAX), []);
        assert_eq!(both(&set, &of(Op::ScmpCmpLe, 7)), [(0, 4), (6, 7)]);
    }

    /// All pairs of small rules, tried on all small arguments: what comes out lets through what
    /// both let through, and never anything else.
    #[test]
    fn what_comes_out_is_what_both_let_through() {
        use Op::{
            ScmpCmpEq as Eq, ScmpCmpGe as Ge, ScmpCmpGt as Gt, ScmpCmpLe as Le, ScmpCmpLt as Lt,
            ScmpCmpMaskedEq as Masked, ScmpCmpNe as Ne,
        };
        let mut all: Vec<Vec<LinuxSeccompArg>> = vec![vec![]];
        for op in [Eq, Ne, Lt, Le, Ge, Gt, Masked] {
            for v in [0, 2, 3] {
                all.push(args(&[(0, op, v)]));
                all.push(args(&[(0, op, v), (1, Ne, 1)]));
            }
        }
        let calls: Vec<[u64; 2]> = (0..6).flat_map(|a| (0..3).map(move |b| [a, b])).collect();
        let masked = |r: &[LinuxSeccompArg]| r.iter().any(|c| c.op() == Masked);
        for a in &all {
            for b in &all {
                let (mut x, mut y) = (Cases::never(), Cases::never());
                x.add(a);
                y.add(b);
                let and = x.and(&y).conditions().unwrap();
                x.remove(b);
                let minus = x.conditions().unwrap();
                for call in &calls {
                    let (in_a, in_b) = (lets(from_ref(a), *call), lets(from_ref(b), *call));
                    let exact = !masked(a) && !masked(b);
                    for (out, want, what) in [
                        (&and, in_a && in_b, "and"),
                        (&minus, in_a && !in_b, "minus"),
                    ] {
                        let got = lets(out, *call);
                        assert!(
                            !got || want,
                            "{what}: {a:?} {b:?} {call:?} lets too much through"
                        );
                        assert!(!exact || got == want, "{what}: {a:?} {b:?} {call:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn bounds_on_both_sides() {
        let mut few = Cases::always();
        few.remove(&args(&[(0, Op::ScmpCmpLt, 10)]));
        few.remove(&args(&[(0, Op::ScmpCmpGt, 12)]));
        let out = few.conditions().unwrap();
        assert!(lets(&out, [11, 0]) && !lets(&out, [9, 0]) && !lets(&out, [13, 0]));
        // Too many to list: nothing, rather than too much.
        let mut many = Cases::always();
        many.remove(&args(&[(0, Op::ScmpCmpLt, 10)]));
        many.remove(&args(&[(0, Op::ScmpCmpGt, 1000)]));
        assert!(many.conditions().unwrap().is_empty());
        // Gaps in each of six arguments: no more are made than are kept.
        let mut gaps = Cases::always();
        for index in 0..6 {
            for n in 1..60 {
                gaps.remove(&args(&[(index, Op::ScmpCmpEq, n * 10)]));
            }
        }
        assert_eq!(gaps.conditions().unwrap().len(), MOST_LISTS);
    }
}
