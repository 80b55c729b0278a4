//! `WWW-Authenticate`: what a registry wants to see (RFC 9110, section 11).

use crate::image::json::show;

/// Longest header that is read, in bytes; what follows is ignored.
const MAX_BYTES: usize = 16 << 10;
/// Most challenges of one answer that are looked at.
const MAX_CHALLENGES: usize = 16;
/// Most parameters of one challenge.
const MAX_PARAMS: usize = 32;

/// One challenge: a scheme with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme in lower case: `bearer`, `basic`.
    pub scheme: String,
    /// Parameters, names in lower case, in order. The first of a name counts.
    pub params: Vec<(String, String)>,
}

impl Challenge {
    /// The value of the parameter `name`.
    pub fn param(&self, name: &str) -> Option<&str> {
        let found = self.params.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| &**value)
    }
}

/// All challenges in the values of one answer's headers. What cannot be understood ends the
/// header it is in.
pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    let mut all = Vec::new();
    for header in headers {
        let mut end = header.len().min(MAX_BYTES);
        while !header.is_char_boundary(end) {
            end -= 1;
        }
        let mut rest = Rest(&header[..end]);
        while let Some(challenge) = rest.challenge() {
            if all.len() == MAX_CHALLENGES {
                return all;
            }
            all.push(challenge);
        }
        if !rest.0.is_empty() {
            tracing::debug!(rest = show(rest.0), "challenge not understood");
        }
    }
    all
}

struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn commas(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
    }

    fn eat(&mut self, c: char) -> bool {
        let rest = self.0.strip_prefix(c);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn token(&mut self) -> Option<&'a str> {
        let is = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = self.0.find(|c| !is(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    fn quoted(&mut self) -> Option<String> {
        let mut out = String::new();
        let mut chars = self.0.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(out);
                }
                '\\' => out.push(chars.next()?.1),
                c => out.push(c),
            }
        }
        None
    }

    /// `name = value` with `value` a token or quoted.
    fn param(&mut self) -> Option<(String, String)> {
        let name = self.token()?;
        self.blanks();
        if !self.eat('=') {
            return None;
        }
        self.blanks();
        let value = if self.eat('"') {
            self.quoted()?
        } else {
            // Some write URLs without quotes.
            let end = self.0.find([',', ' ', '\t', '"']).unwrap_or(self.0.len());
            let (value, rest) = self.0.split_at(end);
            self.0 = rest;
            value.to_owned()
        };
        Some((name.to_ascii_lowercase(), value))
    }

    fn challenge(&mut self) -> Option<Challenge> {
        self.commas();
        let scheme = self.token()?.to_ascii_lowercase();
        if !matches!(self.0.chars().next(), None | Some(' ' | '\t' | ',')) {
            return None;
        }
        let mut params = Vec::new();
        self.blanks();
        // `Negotiate YWJj==`: one opaque value.
        if self.token68() {
            return Some(Challenge { scheme, params });
        }
        loop {
            let before = self.0;
            if !params.is_empty() {
                self.commas();
            }
            match self.param() {
                Some(param) if params.len() < MAX_PARAMS => params.push(param),
                Some(_) => {}
                None => {
                    self.0 = before;
                    return Some(Challenge { scheme, params });
                }
            }
        }
    }

    fn token68(&mut self) -> bool {
        let is = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        let rest = self.0.trim_start_matches(is);
        let some = rest.len() < self.0.len();
        let rest = rest.trim_start_matches('=').trim_start_matches([' ', '\t']);
        let whole = some && (rest.is_empty() || rest.starts_with(','));
        if whole {
            self.0 = rest;
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Vec<(String, Vec<(String, String)>)> {
        parse([text])
            .into_iter()
            .map(|c| (c.scheme, c.params))
            .collect()
    }

    fn want(all: &[(&str, &[(&str, &str)])]) -> Vec<(String, Vec<(String, String)>)> {
        let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        all.iter()
            .map(|(s, p)| ((*s).to_owned(), p.iter().map(own).collect()))
            .collect()
    }

    #[test]
    fn challenges_in_the_wild() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
        let parts: &[_] = &[
            ("realm", "https://auth.docker.io/token"),
            ("service", "registry.docker.io"),
            ("scope", "repository:library/alpine:pull"),
        ];
        assert_eq!(one(hub), want(&[("bearer", parts)]));
        assert_eq!(
            one(r#"BASIC Realm = "a \"b\", c" , Bearer realm=https://x/t,error="bad""#),
            want(&[
                ("basic", &[("realm", "a \"b\", c")]),
                ("bearer", &[("realm", "https://x/t"), ("error", "bad")]),
            ])
        );
        assert_eq!(
            one("Negotiate, NTLM abc==, Basic realm=x"),
            want(&[
                ("negotiate", &[]),
                ("ntlm", &[]),
                ("basic", &[("realm", "x")])
            ])
        );
        assert_eq!(parse(["Basic realm=\"a\"", "Bearer realm=\"b\""]).len(), 2);
        let c = &parse(["Basic realm=\"a\",realm=\"b\""])[0];
        assert_eq!((c.param("realm"), c.param("x")), (Some("a"), None));
    }

    #[test]
    fn what_is_broken_is_dropped() {
        assert_eq!(one(""), want(&[]));
        assert_eq!(one(",,, "), want(&[]));
        assert_eq!(one("=x"), want(&[]));
        assert_eq!(one("Basic realm=\"open"), want(&[("basic", &[])]));
        assert_eq!(one("Basic/x"), want(&[]));
        let many = "a, ".repeat(1000);
        assert_eq!(parse([&*many]).len(), MAX_CHALLENGES);
        let long = format!("a {}", "x=ä,".repeat(100_000));
        assert!(parse([&*long])[0].params.len() <= MAX_PARAMS);
    }
}
