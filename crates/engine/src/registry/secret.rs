//! Secrets, and text from which they are kept out.

use std::fmt;

use http::HeaderValue;
use reqwest::Url;

use crate::image::json::show;

/// A password or token. It shows itself to nobody who does not ask with [`Secret::expose`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself; never for a message or a log.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A value for the header `Authorization` that is not shown in logs.
pub(super) fn authorization(scheme: &str, secret: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {secret}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `url` without user, password, query and fragment.
pub(super) fn redact(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    show(&format!("{}://{host}{port}{}", url.scheme(), url.path()))
}

/// Foreign text for a message: URLs in it lose what may be secret.
pub(super) fn redact_text(text: &str) -> String {
    let words: Vec<String> = text
        .split(' ')
        .map(|word| {
            let Some(at) = word.find("://") else {
                return word.to_owned();
            };
            let start = word[..at]
                .rfind(|c: char| !c.is_ascii_alphanumeric())
                .map_or(0, |i| {
                    i + word[i..].chars().next().map_or(1, char::len_utf8)
                });
            let end = word[at..]
                .find(['"', '\'', ')', '>', ','])
                .map_or(word.len(), |i| at + i);
            let url = match Url::parse(&word[start..end]) {
                Ok(url) => redact(&url),
                Err(_) => "(a URL)".to_owned(),
            };
            format!("{}{url}{}", &word[..start], &word[end..])
        })
        .collect();
    show(&words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
        let url = Url::parse("https://me:pw@h.io:8443/a/b?sig=abc#frag").unwrap();
        assert_eq!(redact(&url), "https://h.io:8443/a/b");
        for (text, want) in [
            (
                "Get \"https://u:p@h.io/x?X-Amz-Signature=abc\": denied",
                "Get \"https://h.io/x\": denied",
            ),
            ("see https://h.io/x?y=1, then", "see https://h.io/x, then"),
            ("(https://[x/?k=s)", "((a URL))"),
            ("ö://x?secret", "ö(a URL)"),
            ("plain words", "plain words"),
        ] {
            assert_eq!(redact_text(text), want);
        }
        let value = authorization("Bearer", "abc").unwrap();
        assert_eq!(format!("{value:?}"), "Sensitive");
        assert!(authorization("Bearer", "a\nb").is_none());
    }
}
