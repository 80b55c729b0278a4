//! The engine's error: what happened, to what, and what to do about it.

use std::{fmt, io};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who is at fault, and so what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The input breaks a rule: an image, a reference, a document of a registry.
    BadInput,
    /// A limit would be exceeded.
    Limit,
    /// Well-formed, but nothing this version can handle.
    Unsupported,
    /// A digest, size or count does not hold.
    Integrity,
    /// What was named is not there.
    NotFound,
    /// It is in use, or exists already.
    Conflict,
    /// Credentials are missing or refused, or something is not allowed.
    Denied,
    /// The other end does not answer, or answers with failures.
    Network,
    /// This machine refused: disk full, permission, kernel.
    Host,
    /// The caller cancelled.
    Cancelled,
    /// A defect of unlade.
    Bug,
}

/// An error with its [`Kind`] and what to do about it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    os: Option<i32>,
}

impl Error {
    /// A new error; `message` says what happened to what, without a final full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            os: None,
        }))
    }

    /// A failed call to the host; `doing` names the call and its object.
    pub fn host(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        unlade_unpack::Error::host(doing, source).into()
    }

    /// Adds what a user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says what it happened to: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it, where there is something to say.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The host's error number, if a system call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.os
    }
}

impl From<unlade_unpack::Error> for Error {
    fn from(e: unlade_unpack::Error) -> Self {
        use unlade_unpack::Kind as K;
        let kind = match e.kind() {
            K::BadInput => Kind::BadInput,
            K::Limit => Kind::Limit,
            K::Unsupported => Kind::Unsupported,
            K::Integrity => Kind::Integrity,
            K::Host => Kind::Host,
            K::Cancelled => Kind::Cancelled,
            _ => Kind::Bug,
        };
        Self(Box::new(Inner {
            kind,
            message: e.to_string(),
            hint: e.hint().map(str::to_owned),
            os: e.raw_os_error(),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        let hint = self.0.hint.as_ref();
        hint.map_or(Ok(()), |h| write!(f, " [hint: {h}]"))
    }
}

impl std::error::Error for Error {}
