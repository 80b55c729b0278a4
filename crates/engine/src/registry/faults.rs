//! What an error says: who failed, why, and what to do; nothing secret.

use std::{error::Error as _, io};

use http::StatusCode;
use reqwest::Url;
use serde_json::Value;
use std::time::Duration;

use super::{address::Refused, hosts::authority, retry::Failure, secret::redact_text, tls};
use crate::error::{Error, Kind};

/// What went wrong before there was an answer.
pub(super) fn failure(url: &Url, e: &reqwest::Error) -> Failure {
    let host = authority(url);
    if let Some(e) = find::<rustls::Error>(e) {
        let (what, hint) = tls::explain(e);
        let error = Error::new(Kind::Network, format!("{host}: TLS: {what}"));
        let error = error.with_hint(hint.replace("HOST", &host));
        return Failure::never(error).or_other_scheme();
    }
    if let Some(class) = find::<Refused>(e).map(|r| r.0) {
        let m = format!(
            "{host}: another host names it, but it leads to {}",
            class.words()
        );
        return Failure::never(
            Error::new(Kind::Denied, m)
                .with_hint("if that is right, list the host under `trusted-hosts`"),
        );
    }
    let why = causes(e);
    if e.is_connect() {
        let hint = if e.is_timeout() || e.is_dns() {
            "check the name, the network and the proxy settings"
        } else {
            "check the address and port, and that the registry is running"
        };
        let error = Error::new(Kind::Network, format!("{host}: cannot connect: {why}"));
        let failure = Failure::later(error.with_hint(hint));
        return if e.is_timeout() || e.is_dns() {
            failure
        } else {
            failure.or_other_scheme()
        };
    }
    let parse = why.contains("invalid HTTP version") || why.contains("invalid HTTP");
    let error = Error::new(Kind::Network, format!("{host}: no answer: {why}"))
        .with_hint("try again; if it lasts, look at the registry's log");
    let failure = Failure::later(error);
    if parse {
        failure.or_other_scheme()
    } else {
        failure
    }
}

/// The error of an answer with `status` and `body`.
pub(super) fn refusal_of(status: StatusCode, host: &str, what: &str, body: &[u8]) -> Error {
    let (kind, hint) = match status.as_u16() {
        401 | 403 => (
            Kind::Denied,
            format!("log in with `unlade login {host}`, or ask for access to it"),
        ),
        404 => (Kind::NotFound, "check the name and the tag".to_owned()),
        429 => (
            Kind::Network,
            "too many requests: log in to be allowed more, or try later".to_owned(),
        ),
        400..500 if status != 408 => (
            Kind::BadInput,
            "the registry does not take this request; look at its log".to_owned(),
        ),
        _ => (
            Kind::Network,
            "the registry has a problem: try again later".to_owned(),
        ),
    };
    Error::new(kind, format!("{host}: {what}: {status}{}", said(body))).with_hint(hint)
}

pub(super) fn stalled(host: &str, after: Duration) -> Error {
    let m = format!("{host}: no progress for {} s", after.as_secs_f32());
    Error::new(Kind::Network, m).with_hint("check the network, or try again")
}

/// The error of type `E` among the causes of `e`.
fn find<'a, E: std::error::Error + 'static>(
    e: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    if let Some(found) = e.downcast_ref() {
        return Some(found);
    }
    // What is wrapped by this one is not its source, but the source of its source.
    if let Some(inner) = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return find(inner);
    }
    find(e.source()?)
}

/// An error's last cause, without URLs.
pub(super) fn causes(e: &reqwest::Error) -> String {
    let mut last = None;
    let mut source = e.source();
    while let Some(cause) = source {
        last = Some(cause);
        source = cause.source();
    }
    match last {
        Some(cause) => redact_text(&cause.to_string()),
        None if e.is_timeout() => "timed out".to_owned(),
        None => "the request failed".to_owned(),
    }
}

/// What an error's body says: the registry's codes and messages.
fn said(bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |v: &Value, name| {
        let text = v.get(name).and_then(Value::as_str);
        text.map(str::to_owned).filter(|t| !t.is_empty())
    };
    let errors = value.get("errors").and_then(Value::as_array);
    let mut all: Vec<String> = errors
        .into_iter()
        .flatten()
        .take(3)
        .filter_map(|e| match (text(e, "code"), text(e, "message")) {
            (Some(code), Some(message)) => Some(format!("{code}: {message}")),
            (code, message) => code.or(message),
        })
        .collect();
    // Token servers.
    all.extend(text(&value, "details").or_else(|| text(&value, "error_description")));
    if all.is_empty() {
        return String::new();
    }
    format!(": {}", redact_text(&all.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_say() {
        let text =
            br#"{"errors":[{"code":"DENIED","message":"see https://x/?t=s3cret"},{"code":"X"}]}"#;
        assert_eq!(said(text), ": DENIED: see https://x/ X");
        assert_eq!(
            said(br#"{"details":"incorrect username or password"}"#),
            ": incorrect username or password"
        );
        assert_eq!(said(b"<html>"), "");
        assert_eq!(said(br#"{"errors":{}}"#), "");
    }
}
