//! Runs a parsed template over a value.

use std::rc::Rc;

use super::{
    func::{self, Param},
    tree::{Branch, Command, Node, Pipe, Term, TermKind},
    value::{Kind, Value},
};

/// Longest output of one run, in bytes.
const MAX_OUTPUT: usize = 64 << 20;
/// Most nodes that a run may pass.
const MAX_STEPS: u64 = 20_000_000;

/// What went wrong, and at which part of the template.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) at: usize,
    /// The part as text.
    pub(super) part: String,
    pub(super) message: String,
    /// What a user can do about it.
    pub(super) hint: Option<String>,
}

type Ran<T> = Result<T, Failure>;

fn fail<T>(term: &Term, message: impl Into<String>) -> Ran<T> {
    Err(Failure {
        at: term.at,
        part: term.to_string(),
        message: message.into(),
        hint: None,
    })
}

/// Runs `nodes` over `data`. In a `header` docker's own functions leave their text as it is.
pub(super) fn run(nodes: &[Node], data: &Value, header: bool) -> Ran<String> {
    let mut state = State {
        header,
        out: String::new(),
        variables: vec![("$".to_owned(), data.clone())],
        steps: 0,
    };
    state.nodes(nodes, data)?;
    Ok(state.out)
}

struct State {
    header: bool,
    out: String,
    variables: Vec<(String, Value)>,
    steps: u64,
}

/// How a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl State {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Ran<Flow> {
        let scope = self.variables.len();
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                self.variables.truncate(scope);
                return Ok(flow);
            }
        }
        self.variables.truncate(scope);
        Ok(Flow::On)
    }

    fn step(&mut self, pipe: &Pipe) -> Ran<()> {
        self.steps += 1;
        let message = if self.steps > MAX_STEPS {
            format!("more than {MAX_STEPS} steps")
        } else if self.out.len() > MAX_OUTPUT {
            format!("more than {MAX_OUTPUT} bytes of output")
        } else {
            return Ok(());
        };
        Err(Failure {
            at: pipe.at,
            part: pipe.to_string(),
            message,
            hint: None,
        })
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Ran<Flow> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    match value {
                        Value::Missing | Value::Nil => self.out.push_str("<no value>"),
                        value => self.out.push_str(&value.to_string()),
                    }
                }
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::If(branch) | Node::With(branch) => {
                let scope = self.variables.len();
                let value = self.pipe(&branch.pipe, dot)?;
                let flow = if !value.truth() {
                    self.nodes(&branch.otherwise, dot)
                } else if matches!(node, Node::With(_)) {
                    self.nodes(&branch.then, &value)
                } else {
                    self.nodes(&branch.then, dot)
                };
                self.variables.truncate(scope);
                return flow;
            }
            Node::Range(branch) => {
                let scope = self.variables.len();
                let flow = self.range(branch, dot);
                self.variables.truncate(scope);
                return flow;
            }
        }
        Ok(Flow::On)
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Ran<Flow> {
        let scope = self.variables.len();
        let value = self.pipe(&branch.pipe, dot)?;
        let mut any = false;
        let mut each = |state: &mut Self, key: Value, value: Value| -> Ran<bool> {
            any = true;
            state.step(&branch.pipe)?;
            state.variables.truncate(scope);
            let names = &branch.pipe.variables;
            let values = if names.len() == 2 {
                vec![key, value.clone()]
            } else {
                vec![value.clone()]
            };
            for (name, value) in names.iter().zip(values) {
                if branch.pipe.assign {
                    state.assign(name, value, &branch.pipe)?;
                } else {
                    state.variables.push((name.clone(), value));
                }
            }
            Ok(state.nodes(&branch.then, &value)? != Flow::Break)
        };
        match &value {
            Value::List(list) => {
                for (n, value) in list.iter().enumerate() {
                    let n = i64::try_from(n).unwrap_or(i64::MAX);
                    if !each(self, Value::Int(n), value.clone())? {
                        break;
                    }
                }
            }
            Value::Object(o) if o.kind != Kind::Struct => {
                for (key, value) in &o.fields {
                    if !each(self, Value::Str(key.clone()), value.clone())? {
                        break;
                    }
                }
            }
            Value::Int(most) => {
                for n in 0..*most {
                    if !each(self, Value::Int(n), Value::Int(n))? {
                        break;
                    }
                }
            }
            Value::Missing | Value::Nil | Value::Empty | Value::NilList | Value::NilMap => {}
            other => {
                let part = branch
                    .pipe
                    .commands
                    .last()
                    .map_or_else(String::new, ToString::to_string);
                let at = branch.pipe.commands.last().map_or(branch.pipe.at, |c| c.at);
                let message = format!("range can't iterate over {other}");
                return Err(Failure {
                    at,
                    part,
                    message,
                    hint: None,
                });
            }
        }
        self.variables.truncate(scope);
        if any {
            return Ok(Flow::On);
        }
        self.nodes(&branch.otherwise, dot)
    }

    fn assign(&mut self, name: &str, value: Value, pipe: &Pipe) -> Ran<()> {
        match self.variables.iter_mut().rev().find(|(n, _)| n == name) {
            Some(slot) => slot.1 = value,
            None => {
                let last = pipe.commands.last();
                return Err(Failure {
                    at: last.map_or(pipe.at, |c| c.at),
                    part: last.map_or_else(String::new, ToString::to_string),
                    message: format!("undefined variable: {name}"),
                    hint: Some(format!("declare it first, with `{name} := …`")),
                });
            }
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Ran<Value> {
        self.step(pipe)?;
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        let value = value.unwrap_or(Value::Missing);
        // The variables of a loop are set by the loop.
        if let [name] = &pipe.variables[..] {
            if pipe.assign {
                self.assign(name, value.clone(), pipe)?;
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    fn command(&mut self, command: &Command, dot: &Value, last: Option<Value>) -> Ran<Value> {
        let first = &command.args[0];
        let has_args = command.args.len() > 1 || last.is_some();
        match &first.kind {
            TermKind::Function(name) => self.call(name, command, dot, last),
            TermKind::Nil => fail(first, "nil is not a command"),
            TermKind::Field(names) if has_args => {
                self.method(dot.clone(), names, command, dot, last)
            }
            TermKind::Chain(inner, names) if has_args => {
                let of = self.term(inner, dot)?;
                self.method(of, names, command, dot, last)
            }
            TermKind::Variable(name, names) if has_args && !names.is_empty() => {
                let of = self.variable(name, first)?;
                self.method(of, names, command, dot, last)
            }
            _ if has_args => fail(
                first,
                format!("can't give argument to non-function {first}"),
            ),
            _ => self.term(first, dot),
        }
    }

    fn term(&mut self, term: &Term, dot: &Value) -> Ran<Value> {
        Ok(match &term.kind {
            TermKind::Dot => dot.clone(),
            TermKind::Nil => Value::Nil,
            TermKind::Bool(b) => Value::Bool(*b),
            TermKind::Int(n, _) => Value::Int(*n),
            TermKind::Float(n, _) => Value::Float(*n),
            TermKind::Text(text, _) => Value::text(text),
            TermKind::Function(name) => {
                let command = Command {
                    args: vec![term.clone()],
                    at: term.at,
                };
                self.call(name, &command, dot, None)?
            }
            TermKind::Field(names) => fields(dot.clone(), names, term)?,
            TermKind::Variable(name, names) => fields(self.variable(name, term)?, names, term)?,
            TermKind::Chain(inner, names) => fields(self.term(inner, dot)?, names, term)?,
            TermKind::Pipe(pipe) => self.pipe(pipe, dot)?,
        })
    }

    fn variable(&self, name: &str, term: &Term) -> Ran<Value> {
        match self.variables.iter().rev().find(|(n, _)| n == name) {
            Some((_, value)) => Ok(value.clone()),
            None => fail(term, format!("undefined variable: {name}")),
        }
    }

    /// What the last of `names`, in `of`, gives for the arguments of `command`.
    fn method(
        &mut self,
        of: Value,
        names: &[String],
        command: &Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Ran<Value> {
        let first = &command.args[0];
        let Some((name, before)) = names.split_last() else {
            return fail(first, "nothing is called");
        };
        let of = fields(of, before, first)?;
        let is_row = matches!(&of, Value::Object(o) if matches!(o.kind, Kind::Row(_)));
        let given = command.args.len() - 1 + usize::from(last.is_some());
        let want = match field(of, name, first)? {
            Value::Method(method) if given == 1 => {
                let (value, blamed) = match (command.args.get(1), last) {
                    (Some(term), _) => (self.term(term, dot)?, term),
                    (None, last) => (last.unwrap_or(Value::Missing), first),
                };
                return Ok(match fit(value, Param::Text, blamed)? {
                    Value::Str(text) => method.call(&text),
                    other => other,
                });
            }
            Value::Method(_) => 1,
            // Docker's rows consist of methods.
            _ if is_row => 0,
            _ => {
                return fail(first, format!("{name} is not a method but has arguments"));
            }
        };
        let m = format!("wrong number of args for {name}: want {want} got {given}");
        fail(first, m)
    }

    fn call(
        &mut self,
        name: &str,
        command: &Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Ran<Value> {
        let first = &command.args[0];
        let Some(function) = func::find(name) else {
            return fail(first, format!("function {name:?} not defined"));
        };
        let given = command.args.len() - 1 + usize::from(last.is_some());
        let want = function.params.len();
        if given < want || function.rest.is_none() && given > want {
            let least = if function.rest.is_some() {
                "at least "
            } else {
                ""
            };
            let m = format!("wrong number of args for {name}: want {least}{want} got {given}");
            return fail(first, m);
        }
        let param = |n: usize| {
            let param = function.params.get(n).copied().or(function.rest);
            param.unwrap_or(Param::Any)
        };
        let mut args = Vec::with_capacity(given);
        for (n, term) in command.args[1..].iter().enumerate() {
            let value = match term.kind {
                TermKind::Nil => Value::Nil,
                _ => self.term(term, dot)?,
            };
            if self.header && func::is_dockers(name) {
                return Ok(value);
            }
            let value = fit(value, param(n), term)?;
            let decided = match name {
                "and" => !value.truth(),
                "or" => value.truth(),
                _ => false,
            };
            if decided {
                return Ok(value);
            }
            args.push(value);
        }
        if let Some(value) = last {
            if self.header && func::is_dockers(name) {
                return Ok(value);
            }
            let blamed = command.args.last().unwrap_or(first);
            args.push(fit(value, param(args.len()), blamed)?);
        }
        if let ("and" | "or", Some(value)) = (name, args.last()) {
            return Ok(value.clone());
        }
        func::call(name, &args, MAX_OUTPUT).map_err(|message| Failure {
            at: command.at,
            part: command.to_string(),
            message: format!("error calling {name}: {message}"),
            hint: None,
        })
    }
}

/// Checks an argument's type.
fn fit(value: Value, param: Param, term: &Term) -> Ran<Value> {
    let (literal, wanted) = match param {
        Param::Any => return Ok(value),
        Param::Text => ("string", "string"),
        Param::Int => ("integer", "int"),
        Param::Texts => ("[]string", "[]string"),
    };
    let fits = match (&value, param) {
        (Value::Str(_), Param::Text) | (Value::Int(_), Param::Int) => true,
        (Value::List(all), Param::Texts) => all.iter().all(|v| matches!(v, Value::Str(_))),
        (Value::NilList | Value::Empty, Param::Texts) => true,
        (Value::Empty, Param::Text) => return Ok(Value::Str(Rc::from(""))),
        _ => false,
    };
    if fits {
        return Ok(value);
    }
    match &term.kind {
        TermKind::Int(_, text) | TermKind::Float(_, text) | TermKind::Text(_, text) => {
            if param == Param::Texts {
                return fail(
                    term,
                    format!("can't handle {text} for arg of type []string"),
                );
            }
            fail(term, format!("expected {literal}; found {text}"))
        }
        TermKind::Bool(b) => fail(term, format!("expected {literal}; found {b}")),
        _ if matches!(value, Value::Missing | Value::Nil) => {
            fail(term, format!("invalid value; expected {wanted}"))
        }
        _ => {
            let got = value.type_name();
            fail(
                term,
                format!("wrong type for value; expected {wanted}; got {got}"),
            )
        }
    }
}

/// Follows field names from `value`.
fn fields(mut value: Value, names: &[String], term: &Term) -> Ran<Value> {
    for name in names {
        value = field(value, name, term)?;
        if let Value::Method(_) = value {
            let m = format!("wrong number of args for {name}: want 1 got 0");
            return fail(term, m);
        }
    }
    Ok(value)
}

fn field(value: Value, name: &str, term: &Term) -> Ran<Value> {
    let object = match &value {
        Value::Missing | Value::NilMap => return Ok(Value::Missing),
        Value::Nil => return fail(term, format!("nil data; no entry for key {name:?}")),
        Value::Object(object) => object,
        Value::Empty => {
            return fail(
                term,
                format!("can't evaluate field {name} in type interface {{}}"),
            );
        }
        other => {
            let of = other.type_name();
            return fail(term, format!("can't evaluate field {name} in type {of}"));
        }
    };
    if let Some(found) = object.get(name) {
        return Ok(found.clone());
    }
    let message = match object.kind {
        Kind::Map => return Ok(Value::Missing),
        Kind::Document | Kind::Struct | Kind::Platform => {
            format!("map has no entry for key {name:?}")
        }
        Kind::Row(of) => format!("can't evaluate field {name} in type {of}"),
    };
    let there: Vec<&str> = object.fields.iter().take(40).map(|(k, _)| &**k).collect();
    let hint = (!there.is_empty()).then(|| format!("there are: {}", there.join(", ")));
    Err(Failure {
        at: term.at,
        part: term.to_string(),
        message,
        hint,
    })
}
