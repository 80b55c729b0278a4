//! What a template is parsed to, and how parts of it are written in messages.

use std::fmt;

/// A part of a template.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

/// A control structure.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) pipe: Pipe,
    pub(super) then: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

/// Commands, each given the value of the one before.
#[derive(Debug, Clone)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    /// The variables are there already.
    pub(super) assign: bool,
    pub(super) commands: Vec<Command>,
    pub(super) at: usize,
}

/// A function or a value, with arguments.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) args: Vec<Term>,
    pub(super) at: usize,
}

/// A term and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) kind: TermKind,
    pub(super) at: usize,
}

#[derive(Debug, Clone)]
pub(super) enum TermKind {
    Dot,
    Nil,
    Bool(bool),
    Int(i64, String),
    Float(f64, String),
    /// The value, and how it was written.
    Text(String, String),
    Function(String),
    Field(Vec<String>),
    /// A variable, `$` with its name, and fields of it.
    Variable(String, Vec<String>),
    Chain(Box<Term>, Vec<String>),
    Pipe(Box<Pipe>),
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            let sign = if self.assign { "=" } else { ":=" };
            write!(f, "{} {sign} ", self.variables.join(", "))?;
        }
        for (n, command) in self.commands.iter().enumerate() {
            write!(f, "{}{command}", if n > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, term) in self.args.iter().enumerate() {
            write!(f, "{}{term}", if n > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = |f: &mut fmt::Formatter<'_>, fields: &[String]| {
            fields.iter().try_for_each(|name| write!(f, ".{name}"))
        };
        match &self.kind {
            TermKind::Dot => f.write_str("."),
            TermKind::Nil => f.write_str("nil"),
            TermKind::Bool(b) => write!(f, "{b}"),
            TermKind::Int(_, text) | TermKind::Float(_, text) | TermKind::Text(_, text) => {
                f.write_str(text)
            }
            TermKind::Function(name) => f.write_str(name),
            TermKind::Field(names) => fields(f, names),
            TermKind::Variable(name, names) => {
                f.write_str(name)?;
                fields(f, names)
            }
            TermKind::Chain(term, names) => {
                write!(f, "{term}")?;
                fields(f, names)
            }
            TermKind::Pipe(pipe) => write!(f, "({pipe})"),
        }
    }
}
