//! Failpoints: places where tests make this crate fail or die.
//!
//! Only with the feature `failpoints`, which no release enables; without it a point is nothing.
//! `UNLADE_FAILPOINT=NAME:N:ACTION[,…]` acts at the Nth time (from 1) that point NAME is passed;
//! `N+` acts from then on. ACTION is `kill` (SIGKILL to itself) or an errno: `EIO`, `ENOSPC`,
//! `EMFILE`, `ENOMEM`. Unlike strace they also reach what io_uring does.

use std::io;

/// Passes the point `name`.
///
/// # Errors
/// The one that `UNLADE_FAILPOINT` asks for here.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[allow(clippy::unnecessary_wraps)]
pub fn point(_name: &'static str) -> io::Result<()> {
    Ok(())
}

/// Passes the point `name`.
///
/// # Errors
/// The one that `UNLADE_FAILPOINT` asks for here.
#[cfg(feature = "failpoints")]
pub fn point(name: &'static str) -> io::Result<()> {
    active::point(name)
}

#[cfg(feature = "failpoints")]
mod active {
    use std::{
        io,
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    use rustix::{io::Errno, process};

    struct Point {
        name: String,
        at: u64,
        onward: bool,
        action: Option<Errno>,
        passed: AtomicU64,
    }

    fn points() -> &'static [Point] {
        static POINTS: OnceLock<Vec<Point>> = OnceLock::new();
        POINTS.get_or_init(|| {
            let spec = std::env::var("UNLADE_FAILPOINT").unwrap_or_default();
            spec.split(',')
                .filter(|s| !s.is_empty())
                .map(parse)
                .collect()
        })
    }

    fn parse(spec: &str) -> Point {
        let mut parts = spec.split(':');
        let mut next = || parts.next().unwrap_or_default();
        let (name, at, action) = (next().to_owned(), next(), next());
        let action = match action {
            "EIO" => Some(Errno::IO),
            "ENOSPC" => Some(Errno::NOSPC),
            "EMFILE" => Some(Errno::MFILE),
            "ENOMEM" => Some(Errno::NOMEM),
            "kill" => None,
            other => panic!("UNLADE_FAILPOINT: unknown action `{other}`"),
        };
        let number = at.trim_end_matches('+');
        let at_number = number
            .parse()
            .unwrap_or_else(|_| panic!("UNLADE_FAILPOINT: `{at}`"));
        let onward = at.ends_with('+');
        Point {
            name,
            at: at_number,
            onward,
            action,
            passed: AtomicU64::new(0),
        }
    }

    pub(super) fn point(name: &'static str) -> io::Result<()> {
        for p in points().iter().filter(|p| p.name == name) {
            let n = p.passed.fetch_add(1, Ordering::Relaxed) + 1;
            if n == p.at || (p.onward && n > p.at) {
                match p.action {
                    Some(e) => return Err(e.into()),
                    None => {
                        let _ = process::kill_process(process::getpid(), process::Signal::KILL);
                        loop {
                            std::thread::park();
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
