//! Words of Dockerfile instructions: quotes, escapes, `$variables`.

use crate::error::{Error, Kind, Result};

/// Most bytes that expanding one word may give.
const MAX_BYTES: usize = 1 << 20;

/// Cuts at blanks that are neither quoted nor escaped; quotes stay in the words.
pub(super) fn cut(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None | Some('"'), '\\') => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Takes quotes and escapes out of a word and puts in variables from `env` (`NAME=value`).
pub(super) fn expand(word: &str, env: &[String]) -> Result<String> {
    let mut expander = Expander {
        rest: word,
        env,
        depth: 0,
    };
    expander.until(None)
}

struct Expander<'a> {
    rest: &'a str,
    env: &'a [String],
    depth: usize,
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::BadInput, message)
        .with_hint("variables are $NAME, ${NAME}, ${NAME:-default} and ${NAME:+other}")
}

impl Expander<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Up to `end`, which is taken, or the end of the word.
    fn until(&mut self, end: Option<char>) -> Result<String> {
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                c if Some(c) == end => return Ok(out),
                '\'' => match self.rest.split_once('\'') {
                    Some((quoted, rest)) => {
                        out.push_str(quoted);
                        self.rest = rest;
                    }
                    None => return Err(unterminated('\'')),
                },
                '"' => self.double(&mut out)?,
                '\\' => match self.next() {
                    Some(c) => out.push(c),
                    None => out.push('\\'),
                },
                '$' => out.push_str(&self.variable()?),
                c => out.push(c),
            }
            if out.len() > MAX_BYTES {
                return Err(Error::new(Kind::Limit, "a word that expands without end")
                    .with_hint("use fewer variables in the change"));
            }
        }
        match end {
            None => Ok(out),
            Some(_) => Err(bad("a `${` without its `}`")),
        }
    }

    fn double(&mut self, out: &mut String) -> Result<()> {
        while let Some(c) = self.next() {
            match c {
                '"' => return Ok(()),
                '\\' => match self.next() {
                    Some(c @ ('"' | '$' | '\\')) => out.push(c),
                    Some(c) => out.extend(['\\', c]),
                    None => break,
                },
                '$' => out.push_str(&self.variable()?),
                c => out.push(c),
            }
        }
        Err(unterminated('"'))
    }

    fn value(&self, name: &str) -> Option<&str> {
        let of = |entry: &'_ &String| entry.split_once('=').is_some_and(|(n, _)| n == name);
        let entry = self.env.iter().find(of)?;
        entry.split_once('=').map(|(_, value)| value)
    }

    fn name(&mut self) -> String {
        let is_name = |c: char| c == '_' || c.is_ascii_alphanumeric();
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let first_digit = self.rest.starts_with(|c: char| c.is_ascii_digit());
        // `$1` is one digit long.
        let end = if first_digit { 1 } else { end };
        let name = self.rest[..end].to_owned();
        self.rest = &self.rest[end..];
        name
    }

    /// What stands for a variable; its `$` is taken already.
    fn variable(&mut self) -> Result<String> {
        if !self.rest.starts_with('{') {
            let name = self.name();
            return Ok(match &*name {
                "" => "$".to_owned(),
                name => self.value(name).unwrap_or_default().to_owned(),
            });
        }
        self.next();
        let name = self.name();
        let value = self.value(&name).map(str::to_owned);
        let with_colon = self.rest.starts_with(':');
        if with_colon {
            self.next();
        }
        let is_set = |v: &String| !with_colon || !v.is_empty();
        match self.next() {
            Some('}') if !with_colon && !name.is_empty() => Ok(value.unwrap_or_default()),
            Some(sign @ ('-' | '+' | '?')) if !name.is_empty() => {
                self.depth += 1;
                if self.depth > 20 {
                    return Err(bad("variables within variables, more than 20 deep"));
                }
                let word = self.until(Some('}'))?;
                self.depth -= 1;
                let value = value.filter(is_set);
                match sign {
                    '-' => Ok(value.unwrap_or(word)),
                    '+' => Ok(value.map(|_| word).unwrap_or_default()),
                    _ => value.ok_or_else(|| bad(format!("{name}: {word}"))),
                }
            }
            _ => Err(bad(format!("`${{{name}` is not a variable"))),
        }
    }
}

fn unterminated(quote: char) -> Error {
    Error::new(
        Kind::BadInput,
        format!("unexpected end of statement while looking for matching {quote}"),
    )
    .with_hint("close the quotes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_and_expands() {
        assert_eq!(
            cut(r#" a  "b c" d\ e f='g h' "#),
            ["a", "\"b c\"", "d\\ e", "f='g h'"]
        );
        let env = ["A=1".to_owned(), "B=".to_owned(), "AB=x y".to_owned()];
        for (word, want) in [
            ("plain", "plain"),
            (r#""q u"'o t'"#, "q uo t"),
            (r"a\ b\\", "a b\\"),
            ("$A$B-$AB", "1-x y"),
            ("${A}2${C}", "12"),
            ("${C:-d$A}${B:-e}${B-f}", "d1e"),
            ("${A:+set}${B:+set}${B+set}", "setset"),
            (r#"'$A'"\$A$A\n""#, r"$A$A1\n"),
            ("$", "$"),
            ("$1x$", "x$"),
            (r"\$A", "$A"),
        ] {
            assert_eq!(expand(word, &env).unwrap(), want, "{word}");
        }
        let deep = "${C:-".repeat(30);
        for word in ["'a", "\"a", "${A", "${}", "${A:x}", "${C:?no}", "${", &deep] {
            assert!(expand(word, &env).unwrap_err().hint().is_some(), "{word}");
        }
    }
}
