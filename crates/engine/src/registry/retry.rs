//! When to try again.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

use crate::error::Error;

/// A request that failed, and whether the same may work later.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
    /// Whether it may be that this scheme is not spoken there.
    pub(super) other_scheme: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It would fail again.
    Never,
    /// After a pause.
    Later,
    /// After the pause that the other end asks for.
    After(Duration),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::never(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Failure {
    pub(super) fn new(error: Error, again: Again) -> Self {
        Self {
            error,
            again,
            other_scheme: false,
        }
    }

    pub(super) fn never(error: Error) -> Self {
        Self::new(error, Again::Never)
    }

    pub(super) fn later(error: Error) -> Self {
        Self::new(error, Again::Later)
    }

    pub(super) fn or_other_scheme(mut self) -> Self {
        self.other_scheme = true;
        self
    }
}

/// Whether an answer of `status` says that trying again may help.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        408 | 429 | 500 | 502 | 503 | 504 | 520..=529
    )
}

/// `Retry-After`, in seconds or as a date; what is in the past is no pause at all.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at.as_second()).ok()?);
    Some(at.duration_since(now).unwrap_or_default())
}

/// Pauses that double, with jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    random: Mutex<u64>,
    first: Duration,
    most: Duration,
}

impl Backoff {
    pub(super) fn new(seed: u64, first: Duration, most: Duration) -> Self {
        Self {
            random: Mutex::new(seed | 1),
            first,
            most,
        }
    }

    /// The pause before try number `n` + 1: between half and all of `first` * 2^(n-1).
    pub(super) fn pause(&self, n: u32) -> Duration {
        let whole = self.first.saturating_mul(1 << n.saturating_sub(1).min(16));
        let whole = whole.min(self.most);
        whole / 2 + (whole / 2).mul_f64(self.fraction())
    }

    /// xorshift64*: between 0 and 1.
    fn fraction(&self) -> f64 {
        let mut x = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        *x ^= *x >> 12;
        *x ^= *x << 25;
        *x ^= *x >> 27;
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480);
        for (text, want) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            assert_eq!(
                retry_after(&headers, now),
                want.map(Duration::from_secs),
                "{text}"
            );
        }
    }

    #[test]
    fn pauses_double_up_to_the_most() {
        let b = Backoff::new(7, Duration::from_millis(100), Duration::from_secs(1));
        for n in 1..40 {
            let whole = Duration::from_millis(100 << (n - 1).min(4)).min(Duration::from_secs(1));
            let got = b.pause(n);
            assert!(got >= whole / 2 && got <= whole, "{n}: {got:?}");
        }
        let c = Backoff::new(7, Duration::from_millis(100), Duration::from_secs(1));
        let d = Backoff::new(7, Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(c.pause(3), d.pause(3));
    }
}
