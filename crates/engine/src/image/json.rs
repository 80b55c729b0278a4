//! JSON that two parsers cannot read in two ways.
//!
//! Before a document is parsed into structures it is walked once: nesting is bounded, no object
//! may have a key twice, and no key may be another spelling of one that unlade gives a meaning
//! to (`Layers` for `layers`: Go's parser takes one for the other, so an image could show
//! different layers to different engines).

use std::{cell::Cell, collections::HashSet, fmt, marker::PhantomData};

use serde::{
    Deserialize,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use unlade_unpack::{Digest, Error, Kind, Result};

/// What a document must not hold.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Keys that must be spelt exactly so, outside of the free parts.
    pub known: &'static [&'static str],
    /// Keys whose values are free: labels, environments and the like. Only doubled keys are
    /// refused in them.
    pub free: &'static [&'static str],
}

/// Parses `bytes` under `rules`. `what` names the document in messages.
///
/// # Errors
/// [`Kind::BadInput`] with line and column for whatever breaks JSON, `rules` or `T`.
pub fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8], rules: &Rules) -> Result<T> {
    let bad = |e: serde_json::Error| {
        let e = Error::new(
            Kind::BadInput,
            format!("not a valid {what}: {}", show(&e.to_string())),
        );
        e.with_hint("the document is damaged or ambiguous: build or copy the image again")
    };
    let mut walk = serde_json::Deserializer::from_slice(bytes);
    let free = Cell::new(false);
    Strict { rules, free: &free }
        .deserialize(&mut walk)
        .map_err(bad)?;
    walk.end().map_err(bad)?;
    serde_json::from_slice(bytes).map_err(bad)
}

/// An object, and nothing but an object: what derives `Deserialize` would take an array as well.
#[derive(Debug, Clone, Copy, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }
        d.deserialize_map(Map(PhantomData))
    }
}

/// Parses a digest that a document holds.
///
/// # Errors
/// As `Digest`'s, with a hint.
pub(crate) fn digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|e: Error| match e.hint() {
        Some(_) => e,
        None => e.with_hint("the document is damaged: build or copy the image again"),
    })
}

/// Text from an image for a message: no control characters, and not endless.
pub fn show(text: &str) -> String {
    const MOST: usize = 200;
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == MOST {
            out.push_str("...");
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}

/// Folds a key as Go's `encoding/json` does.
fn fold(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    rules: &'a Rules,
    free: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let was_free = self.free.get();
            if !was_free {
                let folded = fold(&key);
                if let Some(known) = self.rules.known.iter().find(|k| fold(k) == folded)
                    && *known != key
                {
                    let m = format!("key `{}` is another spelling of `{known}`", show(&key));
                    return Err(de::Error::custom(m));
                }
                self.free.set(self.rules.free.contains(&key.as_str()));
            }
            map.next_value_seed(self)?;
            self.free.set(was_free);
            if let Some(key) = seen.replace(key) {
                return Err(de::Error::custom(format!(
                    "key `{}` is there twice",
                    show(&key)
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        known: &["layers", "config"],
        free: &["labels"],
    };

    fn check(text: &str) -> Result<serde_json::Value> {
        parse("test", text.as_bytes(), &RULES)
    }

    #[test]
    fn plain_documents_pass() {
        check(r#"{"layers": [1, -2, 3.5, null, true, "x"], "other": {"a": {}}}"#).unwrap();
        check(r#"{"labels": {"Layers": "", "layers": ""}}"#).unwrap();
    }

    #[test]
    fn ambiguous_documents_do_not() {
        for (text, part) in [
            (r#"{"layers": 1, "layers": 2}"#, "twice"),
            (r#"{"x": [{"a": 1, "a": 2}]}"#, "twice"),
            (r#"{"labels": {"a": 1, "a": 2}}"#, "twice"),
            (r#"{"Layers": 1}"#, "another spelling of `layers`"),
            ("{\"layer\u{17f}\": 1}", "another spelling of `layers`"),
            (
                r#"{"labels": {}, "CONFIG": 1}"#,
                "another spelling of `config`",
            ),
            (r#"{} {}"#, "trailing"),
            (r#"{"a""#, "EOF"),
            ("", "EOF"),
        ] {
            let e = check(text).unwrap_err();
            assert_eq!(e.kind(), Kind::BadInput);
            assert!(e.message().contains(part), "{text}: {e}");
        }
    }

    #[test]
    fn an_array_is_no_object() {
        #[derive(Debug, Deserialize)]
        struct Point {
            x: u32,
        }
        let p: Object<Point> = parse("test", br#"{"x": 1}"#, &RULES).unwrap();
        assert_eq!(p.0.x, 1);
        let e = parse::<Object<Point>>("test", b"[1]", &RULES).unwrap_err();
        assert!(e.message().contains("expected an object"), "{e}");
        assert!(parse::<Object<Point>>("test", br#"{"x": 1, "x": 1}"#, &RULES).is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |n| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        check(&deep(100)).unwrap();
        for n in [128, 100_000] {
            assert!(
                check(&deep(n))
                    .unwrap_err()
                    .message()
                    .contains("recursion limit")
            );
        }
    }
}
