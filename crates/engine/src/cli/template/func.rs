//! The functions of templates: Go's own, and those that docker adds.

use std::{cmp::Ordering, rc::Rc};

use super::{printf, value::Value};

/// What a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Param {
    Any,
    Text,
    Int,
    Texts,
}

/// A function's name and parameters.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    /// The parameters that must be there.
    pub(super) params: &'static [Param],
    /// What may follow them, if anything may.
    pub(super) rest: Option<Param>,
}

const fn fixed(name: &'static str, params: &'static [Param]) -> Function {
    Function {
        name,
        params,
        rest: None,
    }
}

const fn open(name: &'static str, params: &'static [Param], rest: Param) -> Function {
    Function {
        name,
        params,
        rest: Some(rest),
    }
}

use Param::{Any, Int, Text, Texts};

const FUNCTIONS: &[Function] = &[
    open("and", &[Any], Any),
    open("eq", &[Any], Any),
    fixed("ge", &[Any, Any]),
    fixed("gt", &[Any, Any]),
    open("html", &[], Any),
    open("index", &[Any], Any),
    fixed("join", &[Texts, Text]),
    fixed("json", &[Any]),
    fixed("le", &[Any, Any]),
    fixed("len", &[Any]),
    fixed("lower", &[Text]),
    fixed("lt", &[Any, Any]),
    fixed("ne", &[Any, Any]),
    fixed("not", &[Any]),
    open("or", &[Any], Any),
    fixed("pad", &[Text, Int, Int]),
    open("print", &[], Any),
    open("printf", &[Text], Any),
    open("println", &[], Any),
    open("slice", &[Any], Any),
    fixed("split", &[Text, Text]),
    fixed("title", &[Text]),
    fixed("truncate", &[Text, Int]),
    fixed("upper", &[Text]),
    open("urlquery", &[], Any),
];

/// The function called `name`.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

/// Whether there is a function called `name`.
pub(super) fn exists(name: &str) -> bool {
    find(name).is_some()
}

/// Whether docker added the function to Go's.
pub(super) fn is_dockers(name: &str) -> bool {
    [
        "join", "json", "lower", "pad", "split", "title", "truncate", "upper",
    ]
    .contains(&name)
}

/// Calls a function whose arguments are of the right number and types. `and` and `or` are the
/// caller's, which must not evaluate all arguments. `most` bounds what is made, in bytes.
pub(super) fn call(name: &str, args: &[Value], most: usize) -> Result<Value, String> {
    let text = |n: usize| match args.get(n) {
        Some(Value::Str(s)) => s.clone(),
        _ => Rc::from(""),
    };
    let int = |n: usize| match args.get(n) {
        Some(Value::Int(n)) => *n,
        _ => 0,
    };
    let too_long = || format!("the result is longer than {most} bytes");
    Ok(match name {
        "html" => Value::text(html(&print(args, false))),
        "index" => index(args)?,
        "join" => Value::text(join(args, &text(1))),
        "json" => Value::text(args[0].json()?),
        "len" => Value::Int(len(&args[0])?),
        "lower" => Value::text(text(0).to_lowercase()),
        "not" => Value::Bool(!args[0].truth()),
        "pad" => {
            let both = int(1)
                .checked_add(int(2))
                .and_then(|n| usize::try_from(n).ok());
            let (Ok(before), Ok(after)) = (usize::try_from(int(1)), usize::try_from(int(2))) else {
                return Err("strings: negative Repeat count".into());
            };
            if text(0).is_empty() {
                return Ok(Value::text(""));
            }
            if both.is_none_or(|n| n > most) {
                return Err(too_long());
            }
            Value::text(format!(
                "{}{}{}",
                " ".repeat(before),
                text(0),
                " ".repeat(after)
            ))
        }
        "print" => Value::text(print(args, false)),
        "println" => Value::text(print(args, true)),
        "printf" => {
            let done = printf::sprintf(&text(0), &args[1..], most);
            Value::text(done.ok_or_else(too_long)?)
        }
        "slice" => slice(args)?,
        "split" => {
            let (text, by) = (text(0), text(1));
            if by.is_empty() {
                let parts = text.chars().map(|c| Value::text(c.to_string()));
                Value::List(parts.collect())
            } else {
                Value::List(text.split(&*by).map(Value::text).collect())
            }
        }
        "title" => Value::text(title(&text(0))),
        "truncate" => {
            let text = text(0);
            let Ok(count) = usize::try_from(int(1)) else {
                return Err(format!("a length of {} is below 0", int(1)));
            };
            match text.as_bytes().get(..count) {
                Some(start) => Value::text(String::from_utf8_lossy(start)),
                None => Value::Str(text),
            }
        }
        "upper" => Value::text(text(0).to_uppercase()),
        "urlquery" => Value::text(urlquery(&print(args, false))),
        "eq" => Value::Bool(eq(args)?),
        "ne" => Value::Bool(!eq(args)?),
        "lt" => Value::Bool(order(args)?.is_lt()),
        "le" => Value::Bool(order(args)?.is_le()),
        "gt" => Value::Bool(order(args)?.is_gt()),
        "ge" => Value::Bool(order(args)?.is_ge()),
        other => return Err(format!("{other} cannot be called")),
    })
}

/// As Go's `Sprint` and `Sprintln`.
fn print(args: &[Value], line: bool) -> String {
    let mut out = String::new();
    let is_text = |v: &Value| matches!(v, Value::Str(_));
    for (n, arg) in args.iter().enumerate() {
        if n > 0 && (line || !is_text(arg) && !is_text(&args[n - 1])) {
            out.push(' ');
        }
        out.push_str(&arg.to_string());
    }
    if line {
        out.push('\n');
    }
    out
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn urlquery(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(b.into());
            }
            b' ' => out.push('+'),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c == '_' || c.is_alphanumeric();
    }
    out
}

fn join(args: &[Value], by: &str) -> String {
    match &args[0] {
        Value::List(all) => {
            let all: Vec<String> = all.iter().map(Value::to_string).collect();
            all.join(by)
        }
        _ => String::new(),
    }
}

fn len(value: &Value) -> Result<i64, String> {
    let n = match value {
        Value::Str(s) => s.len(),
        Value::List(l) => l.len(),
        Value::NilList | Value::NilMap | Value::Empty => 0,
        Value::Object(o) if o.kind != super::value::Kind::Struct => o.fields.len(),
        Value::Nil | Value::Missing => return Err("len of nil pointer".into()),
        other => return Err(format!("len of type {}", other.type_name())),
    };
    i64::try_from(n).map_err(|e| e.to_string())
}

/// A place in a list of `len` elements.
fn place(at: &Value, len: usize, inclusive: bool) -> Result<usize, String> {
    match at {
        Value::Int(n) => match usize::try_from(*n) {
            Ok(at) if at < len || inclusive && at == len => Ok(at),
            _ => Err(format!("index out of range: {n}")),
        },
        Value::Nil | Value::Missing => Err("cannot index slice/array with nil".into()),
        other => Err(format!(
            "cannot index slice/array with type {}",
            other.type_name()
        )),
    }
}

fn index(args: &[Value]) -> Result<Value, String> {
    let mut value = args[0].clone();
    if let (Value::Nil | Value::Missing, true) = (&value, args.len() > 1) {
        return Err("index of untyped nil".into());
    }
    for at in &args[1..] {
        value = match &value {
            Value::List(list) => list[place(at, list.len(), false)?].clone(),
            Value::NilList => {
                place(at, 0, false)?;
                Value::Missing
            }
            Value::Str(s) => Value::Int(s.as_bytes()[place(at, s.len(), false)?].into()),
            Value::Object(_) | Value::NilMap | Value::Empty => match at {
                Value::Str(key) => match &value {
                    // Of a map that is not there either, an empty text is the value.
                    Value::Object(o) => o.get(key).cloned().unwrap_or_else(|| Value::text("")),
                    _ => Value::text(""),
                },
                Value::Nil | Value::Missing => {
                    return Err("value is nil; should be of type string".into());
                }
                at => {
                    return Err(format!(
                        "value has type {}; should be string",
                        at.type_name()
                    ));
                }
            },
            Value::Nil | Value::Missing => return Err("index of nil pointer".into()),
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

fn slice(args: &[Value]) -> Result<Value, String> {
    let indexes = &args[1..];
    let len = match &args[0] {
        Value::Str(_) if indexes.len() == 3 => {
            return Err("cannot 3-index slice a string".into());
        }
        _ if indexes.len() > 3 => {
            return Err(format!("too many slice indexes: {}", indexes.len()));
        }
        Value::Str(s) => s.len(),
        Value::List(l) => l.len(),
        Value::NilList => 0,
        Value::Nil | Value::Missing | Value::Empty => return Err("slice of untyped nil".into()),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    let mut bounds = [0, len, len];
    for (bound, at) in bounds.iter_mut().zip(indexes) {
        *bound = place(at, len, true)?;
    }
    let [from, to, cap] = bounds;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    if to > cap {
        return Err(format!("invalid slice index: {to} > {cap}"));
    }
    Ok(match &args[0] {
        Value::Str(s) => Value::text(String::from_utf8_lossy(&s.as_bytes()[from..to])),
        Value::List(l) => Value::List(l[from..to].into()),
        other => other.clone(),
    })
}

const INCOMPATIBLE: &str = "incompatible types for comparison";

fn eq(args: &[Value]) -> Result<bool, String> {
    let [first, others @ ..] = args else {
        return Err("missing argument for comparison".into());
    };
    let is_basic = |v: &Value| {
        matches!(
            v,
            Value::Bool(_) | Value::Int(_) | Value::Large(_) | Value::Float(_) | Value::Str(_)
        )
    };
    let is_nil = |v: &Value| matches!(v, Value::Nil | Value::Missing);
    if !is_basic(first) && !is_nil(first) && *first != Value::Empty {
        return Err(format!(
            "non-comparable type {first}: {}",
            first.type_name()
        ));
    }
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for other in others {
        let equal = match (first, other) {
            // What was left out is the empty value of any type.
            (Value::Empty, v) | (v, Value::Empty) => !v.truth(),
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Large(a), Value::Large(b)) => a == b,
            (Value::Int(_), Value::Large(_)) | (Value::Large(_), Value::Int(_)) => false,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Str(a), Value::Str(b)) => a == b,
            (a, b) if is_nil(a) || is_nil(b) => is_nil(a) && is_nil(b),
            _ => return Err(INCOMPATIBLE.into()),
        };
        if equal {
            return Ok(true);
        }
    }
    Ok(false)
}

fn order(args: &[Value]) -> Result<Ordering, String> {
    match args {
        [Value::Int(a), Value::Int(b)] => Ok(a.cmp(b)),
        [Value::Large(a), Value::Large(b)] => Ok(a.cmp(b)),
        [Value::Int(_), Value::Large(_)] => Ok(Ordering::Less),
        [Value::Large(_), Value::Int(_)] => Ok(Ordering::Greater),
        [Value::Float(a), Value::Float(b)] => {
            a.partial_cmp(b).ok_or_else(|| INCOMPATIBLE.to_owned())
        }
        [Value::Str(a), Value::Str(b)] => Ok(a.cmp(b)),
        [Value::Bool(_), Value::Bool(_)] => Err("invalid type for comparison".into()),
        _ => Err(INCOMPATIBLE.into()),
    }
}
