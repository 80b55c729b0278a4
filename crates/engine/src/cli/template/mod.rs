//! `--format`: the part of Go's `text/template` that scripts use with docker, over values that
//! serde can write.
//!
//! Texts and messages are docker's. What is left out: `define`, `template`, `block`, `call` and
//! `js`. Nesting, steps and output are bounded.

mod exec;
mod func;
mod lex;
mod literal;
mod parse;
mod printf;
mod ser;
mod tree;
mod value;

use serde::Serialize;

pub(crate) use self::{printf::general, value::Value};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Longest template, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// A parsed template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    text: String,
    nodes: Vec<tree::Node>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`Kind::BadInput`] with docker's words, for text that is no template.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_BYTES {
            let m = format!("a template of {} bytes", text.len());
            return Err(Error::new(Kind::Limit, m)
                .with_hint(format!("shorten --format to {MAX_BYTES} bytes")));
        }
        let nodes = parse::parse(text).map_err(|wrong| {
            let parse::Wrong { line, message } = wrong;
            let hint = if message.starts_with("function ") {
                "functions are json, join, split, upper, lower, title, pad, truncate and those of \
                 Go's text/template"
            } else {
                "templates are Go's: {{.Field}}, {{json .}}, {{range .List}}…{{end}}"
            };
            let m = format!(
                "template parsing error: template: :{line}: {}",
                show(&message)
            );
            Error::new(Kind::BadInput, m).with_hint(hint)
        })?;
        Ok(Self {
            text: text.to_owned(),
            nodes,
        })
    }

    /// Runs the template over `data`.
    ///
    /// # Errors
    /// [`Kind::BadInput`] with docker's words: an unknown field, an argument of the wrong type.
    pub(crate) fn render_value(&self, data: &Value) -> Result<String> {
        self.run(data, false)
    }

    /// The header of a table with rows by this template.
    ///
    /// # Errors
    /// As [`Template::render_value`].
    pub(crate) fn render_header(&self, headers: &[(&str, &str)]) -> Result<String> {
        let fields = headers
            .iter()
            .map(|(field, header)| ((*field).into(), Value::text(header)));
        // Docker has it in every header, whether rows have labels or not.
        let label = ("Label".into(), Value::Method(value::Method::Heading));
        let header = Value::object(value::Kind::Map, fields.chain([label]).collect());
        self.run(&header, true)
    }

    fn run(&self, data: &Value, header: bool) -> Result<String> {
        exec::run(&self.nodes, data, header).map_err(|failure| {
            let before = self.text.get(..failure.at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = failure.at - before.rfind('\n').map_or(0, |at| at + 1);
            let part = show(&failure.part);
            let m = format!(
                "template parsing error: template: :{line}:{column}: executing \"\" at <{part}>: {}",
                show(&failure.message)
            );
            let e = Error::new(Kind::BadInput, m);
            match failure.hint {
                Some(hint) => e.with_hint(hint),
                None => e.with_hint("{{json .}} shows all that is there"),
            }
        })
    }

    /// Runs the template over anything that serde can write.
    ///
    /// Structures keep their fields' order and print as Go's do; maps such as labels have no
    /// value for unknown keys.
    ///
    /// # Errors
    /// As [`Template::render_value`].
    pub(crate) fn render<T: Serialize + ?Sized>(&self, data: &T) -> Result<String> {
        let value = ser::to_value(data).map_err(|m| Error::new(Kind::Bug, m))?;
        self.render_value(&value)
    }
}

#[cfg(test)]
mod tests;
