//! What templates see: values as Go has them, with what Go's printing depends on.

use std::{collections::BTreeMap, fmt, rc::Rc};

use serde::{Serialize, ser::SerializeMap};

/// A value in a template. Cloning is cheap.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// What a missing key of a map gives: prints as `<no value>`.
    Missing,
    /// Go's nil.
    Nil,
    /// A field that was left out because it is empty; its type is not known.
    Empty,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer that is too large for that.
    Large(u64),
    /// A number that is no integer.
    Float(f64),
    /// Text.
    Str(Rc<str>),
    /// A list.
    List(Rc<[Value]>),
    /// A list that is nil: empty, but `null` in JSON.
    NilList,
    /// A map that is nil: empty, but `null` in JSON.
    NilMap,
    /// Fields with values.
    Object(Rc<Object>),
    /// What has a value only with an argument.
    Method(Method),
}

/// A field that takes a text: `{{.Label "key"}}`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Method {
    /// The value of that label, or nothing.
    Labels(Rc<BTreeMap<String, String>>),
    /// The header of a column of such labels.
    Heading,
}

impl Method {
    pub(super) fn call(&self, text: &str) -> Value {
        match self {
            Self::Labels(labels) => Value::text(labels.get(text).map_or("", |v| v)),
            Self::Heading => {
                let last = text.rsplit('.').next().unwrap_or(text);
                Value::text(last.replace(['-', '_'], " "))
            }
        }
    }
}

/// Fields with values.
#[derive(Debug, PartialEq)]
pub(crate) struct Object {
    /// What kind of object.
    pub(super) kind: Kind,
    /// The fields: of a struct in its order, else sorted.
    pub(super) fields: Vec<(Rc<str>, Value)>,
}

/// What an object does about fields that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A structure: an unknown field is an error.
    Struct,
    /// A map such as labels: an unknown key has no value.
    Map,
    /// A JSON document of any form: an unknown key is an error.
    Document,
    /// A row of a table; the name is for messages.
    Row(&'static str),
    /// A platform, which prints as `os/architecture`.
    Platform,
}

impl Value {
    /// Text.
    pub(crate) fn text(text: impl AsRef<str>) -> Self {
        Self::Str(Rc::from(text.as_ref()))
    }

    /// A row of a table called `name`.
    pub(crate) fn row(name: &'static str, fields: Vec<(&str, Value)>) -> Self {
        let fields = fields.into_iter().map(|(k, v)| (Rc::from(k), v));
        Self::object(Kind::Row(name), fields.collect())
    }

    /// The field `Label` of a row.
    pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Self {
        Self::Method(Method::Labels(Rc::new(labels.clone())))
    }

    /// A platform that is written as `os/architecture`.
    pub(crate) fn platform(text: &str) -> Self {
        let names = ["os", "architecture", "variant"];
        let fields = names.iter().zip(text.split('/'));
        let fields = fields.map(|(k, v)| (Rc::from(*k), Self::text(v)));
        Self::object(Kind::Platform, fields.collect())
    }

    /// An object; all but structures are sorted by key.
    pub(super) fn object(kind: Kind, mut fields: Vec<(Rc<str>, Value)>) -> Self {
        if kind != Kind::Struct {
            fields.sort_by(|a, b| a.0.cmp(&b.0));
        }
        Self::Object(Rc::new(Object { kind, fields }))
    }

    /// Whether `if` takes it for true.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Missing | Self::Nil | Self::Empty | Self::NilList | Self::NilMap => false,
            Self::Bool(b) => *b,
            Self::Int(n) => *n != 0,
            Self::Large(_) => true,
            Self::Float(n) => *n != 0.0,
            Self::Str(s) => !s.is_empty(),
            Self::List(l) => !l.is_empty(),
            Self::Object(o) => o.kind != Kind::Map || !o.fields.is_empty(),
            Self::Method(_) => true,
        }
    }

    /// Go's name of the type, for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Missing | Self::Nil | Self::Empty => "nil",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Large(_) => "uint64",
            Self::Float(_) => "float64",
            Self::Str(_) => "string",
            Self::List(_) | Self::NilList => "[]interface {}",
            Self::NilMap => "map[string]interface {}",
            Self::Object(o) => match o.kind {
                Kind::Struct => "struct",
                Kind::Row(name) => name,
                Kind::Map | Kind::Document => "map[string]interface {}",
                Kind::Platform => "platform",
            },
            Self::Method(_) => "func(string) string",
        }
    }

    /// As `{{json .}}` has it.
    pub(super) fn json(&self) -> Result<String, String> {
        let text = serde_json::to_string(self).map_err(|e| e.to_string())?;
        // Docker's rows pass through an encoder that is careful about HTML.
        match self {
            Self::Object(o) if matches!(o.kind, Kind::Row(_)) => Ok(text
                .replace('<', "\\u003c")
                .replace('>', "\\u003e")
                .replace('&', "\\u0026")),
            _ => Ok(text),
        }
    }
}

impl Object {
    /// The value of a field.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        match self.kind {
            Kind::Struct => {
                let find = |fits: &dyn Fn(&str) -> bool| {
                    let field = self.fields.iter().find(|(k, _)| fits(k));
                    field.map(|(_, v)| v)
                };
                // Docker takes Go's names of fields too, which differ by case alone: ID and Id.
                let exported = key.starts_with(|c: char| c.is_ascii_uppercase());
                find(&|k| k == key).or_else(|| find(&|k| exported && k.eq_ignore_ascii_case(key)))
            }
            _ => {
                let at = self.fields.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
                self.fields.get(at).map(|(_, v)| v)
            }
        }
    }
}

impl From<serde_json::Value> for Value {
    /// A JSON document: in it, unknown keys are errors.
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match value {
            Json::Null => Self::Nil,
            Json::Bool(b) => Self::Bool(b),
            Json::Number(n) => match n.as_i64() {
                Some(n) => Self::Int(n),
                None => match n.as_u64() {
                    Some(n) => Self::Large(n),
                    None => Self::Float(n.as_f64().unwrap_or(f64::MAX)),
                },
            },
            Json::String(s) => Self::text(s),
            Json::Array(all) => Self::List(all.into_iter().map(Self::from).collect()),
            Json::Object(all) => {
                let fields = all.into_iter().map(|(k, v)| (Rc::from(k), Self::from(v)));
                Self::object(Kind::Document, fields.collect())
            }
        }
    }
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Missing
            | Self::Nil
            | Self::Empty
            | Self::NilList
            | Self::NilMap
            | Self::Method(_) => s.serialize_unit(),
            Self::Bool(b) => s.serialize_bool(*b),
            Self::Int(n) => s.serialize_i64(*n),
            Self::Large(n) => s.serialize_u64(*n),
            Self::Float(n) => s.serialize_f64(*n),
            Self::Str(text) => s.serialize_str(text),
            Self::List(list) => s.collect_seq(list.iter()),
            Self::Object(o) => {
                let mut map = s.serialize_map(None)?;
                for (key, value) in &o.fields {
                    if matches!(value, Self::Empty | Self::Method(_)) {
                        continue;
                    }
                    map.serialize_entry(&**key, value)?;
                }
                map.end()
            }
        }
    }
}

impl fmt::Display for Value {
    /// As Go's `%v` prints it within another value; at the top, [`Value::Missing`] and
    /// [`Value::Nil`] are the printer's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing | Self::Nil => f.write_str("<nil>"),
            Self::Empty | Self::Method(_) => Ok(()),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(n) => write!(f, "{n}"),
            Self::Large(n) => write!(f, "{n}"),
            Self::Float(n) => f.write_str(&super::printf::float(*n)),
            Self::Str(s) => f.write_str(s),
            Self::NilList => f.write_str("[]"),
            Self::NilMap => f.write_str("map[]"),
            Self::List(list) => {
                f.write_str("[")?;
                for (n, value) in list.iter().enumerate() {
                    let space = if n > 0 { " " } else { "" };
                    write!(f, "{space}{value}")?;
                }
                f.write_str("]")
            }
            Self::Object(o) if o.kind == Kind::Platform => {
                let parts = ["os", "architecture", "variant"].map(|name| o.get(name));
                for (n, part) in parts.into_iter().flatten().enumerate() {
                    write!(f, "{}{part}", if n > 0 { "/" } else { "" })?;
                }
                Ok(())
            }
            Self::Object(o) => {
                let is_struct = o.kind == Kind::Struct;
                f.write_str(if is_struct { "{" } else { "map[" })?;
                let shown = (o.fields.iter()).filter(|(_, v)| !matches!(v, Self::Method(_)));
                for (n, (key, value)) in shown.enumerate() {
                    let space = if n > 0 { " " } else { "" };
                    f.write_str(space)?;
                    if !is_struct {
                        write!(f, "{key}:")?;
                    }
                    write!(f, "{value}")?;
                }
                f.write_str(if is_struct { "}" } else { "]" })
            }
        }
    }
}
