//! Two filters that must both let a call through, as one.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSyscall};

use super::{intervals::Cases, profile::rule};
use crate::error::Result;

fn lets_through(action: Action) -> bool {
    matches!(action, Action::ScmpActAllow | Action::ScmpActLog)
}

/// How hard an action is on who makes a call.
fn severity(action: Action) -> u8 {
    match action {
        Action::ScmpActAllow | Action::ScmpActLog => 0,
        // Neither a tracer nor a listener is there: the call fails.
        Action::ScmpActErrno | Action::ScmpActTrace | Action::ScmpActNotify => 1,
        Action::ScmpActTrap => 2,
        Action::ScmpActKill | Action::ScmpActKillThread => 3,
        Action::ScmpActKillProcess => 4,
    }
}

fn rules(filter: &LinuxSeccomp) -> &[LinuxSyscall] {
    filter.syscalls().as_deref().unwrap_or_default()
}

/// The rules of a filter by the call that they are about.
fn by_name(filter: &LinuxSeccomp) -> BTreeMap<&str, Vec<&LinuxSyscall>> {
    let mut out: BTreeMap<&str, Vec<&LinuxSyscall>> = BTreeMap::new();
    for rule in rules(filter) {
        for name in rule.names() {
            out.entry(name).or_default().push(rule);
        }
    }
    out
}

/// What `filter` lets through of one call.
fn cases(filter: &LinuxSeccomp, rules: Option<&Vec<&LinuxSyscall>>) -> Cases {
    let default = lets_through(filter.default_action());
    let mut out = if default {
        Cases::always()
    } else {
        Cases::never()
    };
    let rules = rules.into_iter().flatten();
    for rule in rules.clone().filter(|r| lets_through(r.action())) {
        out.add(rule.args().as_deref().unwrap_or_default());
    }
    for rule in rules.filter(|r| !lets_through(r.action())) {
        out.remove(rule.args().as_deref().unwrap_or_default());
    }
    out
}

/// A filter that lets through what both do, and where they differ in how they refuse, refuses as
/// the harder one.
pub(super) fn both(own: &LinuxSeccomp, theirs: &LinuxSeccomp) -> Result<LinuxSeccomp> {
    let (ours_by, theirs_by) = (by_name(own), by_name(theirs));
    let mut open: Vec<String> = Vec::new();
    let mut closed: Vec<(Action, Option<u32>, Vec<String>)> = Vec::new();
    let mut out: Vec<LinuxSyscall> = Vec::new();
    let names: BTreeSet<&str> = ours_by.keys().chain(theirs_by.keys()).copied().collect();
    let default = harder(own, theirs);
    for name in names {
        let (ours, others) = (ours_by.get(name), theirs_by.get(name));
        let through = cases(own, ours).and(&cases(theirs, others));
        let conditions = through.conditions()?;
        if conditions.iter().any(Vec::is_empty) {
            open.push(name.to_owned());
            continue;
        }
        for args in conditions {
            out.push(rule(
                vec![name.to_owned()],
                Action::ScmpActAllow,
                None,
                args,
            )?);
        }
        // How it is refused, where a rule says so.
        let said = others.into_iter().chain(ours).flatten();
        let mut refusals: Vec<&LinuxSyscall> = said
            .copied()
            .filter(|r| !lets_through(r.action()))
            .collect();
        refusals.sort_by_key(|r| std::cmp::Reverse(severity(r.action())));
        let mut had = Vec::new();
        for refusal in refusals {
            let args = refusal.args().clone().unwrap_or_default();
            let harder = severity(refusal.action()) >= severity(default.0);
            // A rule without conditions would take the conditional ones' place.
            let whole = args.is_empty() && !through.is_never();
            if !harder || whole || had.contains(&args) {
                continue;
            }
            let (action, errno) = refused_with(refusal.action(), refusal.errno_ret());
            if !args.is_empty() {
                had.push(args.clone());
                out.push(rule(vec![name.to_owned()], action, errno, args)?);
                continue;
            }
            let same = closed
                .iter_mut()
                .find(|(a, e, _)| (*a, *e) == (action, errno));
            match same {
                Some((_, _, names)) => names.push(name.to_owned()),
                None => closed.push((action, errno, vec![name.to_owned()])),
            }
            break;
        }
    }
    for (action, errno, names) in closed {
        out.insert(0, rule(names, action, errno, Vec::new())?);
    }
    out.insert(0, rule(open, Action::ScmpActAllow, None, Vec::new())?);
    out.retain(|r| !r.names().is_empty());
    let mut filter = own.clone();
    filter
        .set_default_action(default.0)
        .set_default_errno_ret(default.1)
        .set_architectures(architectures(own, theirs))
        .set_syscalls(Some(out));
    Ok(filter)
}

/// Calls of an architecture that a filter does not list end the process: those of both, and of
/// the host's own, which comes first.
fn architectures(own: &LinuxSeccomp, theirs: &LinuxSeccomp) -> Option<Vec<Arch>> {
    let ours = own.architectures().clone()?;
    let Some(theirs) = theirs.architectures().as_ref().filter(|a| !a.is_empty()) else {
        return Some(ours);
    };
    let native = ours.first().copied();
    let kept = |a: &Arch| Some(*a) == native || theirs.contains(a);
    Some(ours.into_iter().filter(kept).collect())
}

/// A refusal that needs nobody on the host.
fn refused_with(action: Action, errno: Option<u32>) -> (Action, Option<u32>) {
    match action {
        Action::ScmpActTrace | Action::ScmpActNotify => (Action::ScmpActErrno, Some(1)),
        action => (action, errno),
    }
}

fn harder(own: &LinuxSeccomp, theirs: &LinuxSeccomp) -> (Action, Option<u32>) {
    if severity(theirs.default_action()) > severity(own.default_action()) {
        return refused_with(theirs.default_action(), theirs.default_errno_ret());
    }
    (own.default_action(), own.default_errno_ret())
}

/// Calls that `theirs` lets through by name and `own` does not let through at all.
pub(super) fn refused_here(own: &LinuxSeccomp, theirs: &LinuxSeccomp) -> Vec<String> {
    let (ours_by, theirs_by) = (by_name(own), by_name(theirs));
    let lost = theirs_by.iter().filter(|(name, rules)| {
        let asked = rules.iter().any(|r| lets_through(r.action()));
        asked && cases(own, ours_by.get(*name)).is_never()
    });
    lost.map(|(name, _)| (*name).to_owned()).collect()
}
