//! Tokens to a tree, by the grammar and with the messages of Go's `text/template`.

use super::{
    func,
    lex::{self, Kind, Token},
    literal::{number, unquote},
    tree::{Branch, Command, Node, Pipe, Term, TermKind},
};

/// Deepest nesting of actions and parentheses.
const MAX_DEPTH: usize = 100;

/// What is wrong, and in which line.
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) message: String,
}

type Parsed<T> = Result<T, Wrong>;

/// Parses a template.
pub(super) fn parse(text: &str) -> Parsed<Vec<Node>> {
    let mut parser = Parser {
        tokens: lex::tokens(text),
        next: 0,
        variables: vec!["$".to_owned()],
        depth: 0,
        loops: 0,
    };
    let (nodes, end) = parser.list()?;
    match end {
        Ending::End => Ok(nodes),
        Ending::Word(word) => Err(parser.wrong(format!("unexpected {{{{{word}}}}}"))),
    }
}

enum Ending {
    /// Of the template.
    End,
    /// By `{{end}}` or `{{else`.
    Word(String),
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    variables: Vec<String>,
    depth: usize,
    /// How many loops are open.
    loops: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        // The last token ends every loop, so it is never passed.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn skip_space(&mut self) {
        while self.peek().kind == Kind::Space {
            self.next += 1;
        }
    }

    fn take_solid(&mut self) -> Token {
        self.skip_space();
        self.take()
    }

    fn peek_solid(&mut self) -> &Token {
        self.skip_space();
        self.peek()
    }

    fn wrong(&self, message: impl Into<String>) -> Wrong {
        let at = self.next.saturating_sub(1).min(self.tokens.len() - 1);
        Wrong {
            line: self.tokens[at].line,
            message: message.into(),
        }
    }

    fn unexpected(&self, token: &Token, context: &str) -> Wrong {
        let shown = match token.kind {
            Kind::Error => {
                return Wrong {
                    line: token.line,
                    message: token.text.clone(),
                };
            }
            Kind::End => return self.wrong("unexpected EOF"),
            Kind::Dot | Kind::Keyword | Kind::Nil => format!("<{}>", token.text),
            _ if token.text.chars().count() > 10 => {
                format!("{:?}...", token.text.chars().take(10).collect::<String>())
            }
            _ => format!("{:?}", token.text),
        };
        self.wrong(format!("unexpected {shown} in {context}"))
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            return Err(self.wrong(format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let done = inner(self);
        self.depth -= 1;
        done
    }

    /// Nodes up to the end, `{{end}}` or `{{else`; of the latter two the word is taken.
    fn list(&mut self) -> Parsed<(Vec<Node>, Ending)> {
        let mut nodes = Vec::new();
        loop {
            let token = self.take();
            match token.kind {
                Kind::Text => nodes.push(Node::Text(token.text)),
                Kind::End => return Ok((nodes, Ending::End)),
                Kind::LeftDelim => {
                    let word = self.peek_solid().clone();
                    if word.kind != Kind::Keyword {
                        let pipe = self.pipeline("command", Kind::RightDelim)?;
                        nodes.push(Node::Action(pipe));
                        continue;
                    }
                    self.next += 1;
                    match &*word.text {
                        "end" | "else" => {
                            if word.text == "end" {
                                self.close("end")?;
                            }
                            return Ok((nodes, Ending::Word(word.text)));
                        }
                        "if" | "with" | "range" => {
                            nodes.push(self.deeper(|p| p.control(&word.text))?);
                        }
                        "break" | "continue" => {
                            if self.loops == 0 {
                                let m = format!("{{{{{}}}}} outside {{{{range}}}}", word.text);
                                return Err(self.wrong(m));
                            }
                            self.close(&format!("{{{{{}}}}}", word.text))?;
                            nodes.push(if word.text == "break" {
                                Node::Break
                            } else {
                                Node::Continue
                            });
                        }
                        other => {
                            let m = format!("{{{{{other}}}}} is not supported");
                            return Err(self.wrong(m));
                        }
                    }
                }
                _ => return Err(self.unexpected(&token, "input")),
            }
        }
    }

    fn close(&mut self, context: &str) -> Parsed<()> {
        let token = self.take_solid();
        if token.kind == Kind::RightDelim {
            return Ok(());
        }
        Err(self.unexpected(&token, context))
    }

    fn control(&mut self, word: &str) -> Parsed<Node> {
        let scope = self.variables.len();
        let pipe = self.pipeline(word, Kind::RightDelim)?;
        let is_loop = usize::from(word == "range");
        self.loops += is_loop;
        let (then, ending) = self.list()?;
        self.loops -= is_loop;
        let otherwise = match ending {
            Ending::End => return Err(self.wrong("unexpected EOF")),
            Ending::Word(end) if end == "end" => Vec::new(),
            Ending::Word(_) => self.otherwise(word)?,
        };
        self.variables.truncate(scope);
        let branch = Branch {
            pipe,
            then,
            otherwise,
        };
        Ok(match word {
            "if" => Node::If(branch),
            "with" => Node::With(branch),
            _ => Node::Range(branch),
        })
    }

    /// What follows `{{else`.
    fn otherwise(&mut self, word: &str) -> Parsed<Vec<Node>> {
        let next = self.peek_solid().clone();
        if next.kind == Kind::Keyword && next.text == word && word != "range" {
            // `{{else if}}`: its `{{end}}` is ours too.
            self.next += 1;
            return Ok(vec![self.deeper(|p| p.control(word))?]);
        }
        self.close("else")?;
        match self.list()? {
            (nodes, Ending::Word(end)) if end == "end" => Ok(nodes),
            (_, Ending::End) => Err(self.wrong("unexpected EOF")),
            _ => Err(self.wrong("expected end; found {{else}}")),
        }
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Parsed<Pipe> {
        let at = self.peek_solid().at;
        let mut pipe = Pipe {
            variables: Vec::new(),
            assign: false,
            commands: Vec::new(),
            at,
        };
        self.declarations(context, &mut pipe)?;
        loop {
            let token = self.peek_solid().clone();
            match token.kind {
                kind if kind == end => {
                    self.next += 1;
                    return self.checked(pipe, context);
                }
                Kind::Bool
                | Kind::CharConstant
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawString
                | Kind::String
                | Kind::Variable
                | Kind::LeftParen => pipe.commands.push(self.command()?),
                _ => {
                    self.next += 1;
                    return Err(self.unexpected(&token, context));
                }
            }
        }
    }

    fn declarations(&mut self, context: &str, pipe: &mut Pipe) -> Parsed<()> {
        loop {
            let start = self.next;
            let variable = self.peek_solid().clone();
            if variable.kind != Kind::Variable {
                return Ok(());
            }
            self.next += 1;
            match self.peek_solid().kind {
                kind @ (Kind::Assign | Kind::Declare) => {
                    self.next += 1;
                    pipe.assign = kind == Kind::Assign;
                    pipe.variables.push(variable.text.clone());
                    self.variables.push(variable.text);
                    return Ok(());
                }
                Kind::Comma => {
                    self.next += 1;
                    if context != "range" || !pipe.variables.is_empty() {
                        return Err(self.wrong(format!("too many declarations in {context}")));
                    }
                    pipe.variables.push(variable.text.clone());
                    self.variables.push(variable.text);
                    if self.peek_solid().kind != Kind::Variable {
                        return Err(self.wrong("range can only initialize variables"));
                    }
                }
                _ => {
                    self.next = start;
                    if pipe.variables.is_empty() {
                        return Ok(());
                    }
                    return Err(self.wrong("range can only initialize variables"));
                }
            }
        }
    }

    fn checked(&self, pipe: Pipe, context: &str) -> Parsed<Pipe> {
        if pipe.commands.is_empty() {
            return Err(self.wrong(format!("missing value for {context}")));
        }
        for (n, command) in pipe.commands.iter().enumerate().skip(1) {
            use TermKind::{Bool, Dot, Float, Int, Nil, Text};
            if let Dot | Nil | Bool(_) | Int(..) | Float(..) | Text(..) = command.args[0].kind {
                let m = format!("non executable command in pipeline stage {}", n + 1);
                return Err(self.wrong(m));
            }
        }
        Ok(pipe)
    }

    fn command(&mut self) -> Parsed<Command> {
        let at = self.peek_solid().at;
        let mut args = Vec::new();
        loop {
            self.skip_space();
            if let Some(term) = self.operand()? {
                args.push(term);
            }
            let token = self.take();
            match token.kind {
                Kind::Space => {}
                Kind::RightDelim | Kind::RightParen => {
                    self.next -= 1;
                    break;
                }
                Kind::Pipe => break,
                _ => return Err(self.unexpected(&token, "operand")),
            }
        }
        if args.is_empty() {
            return Err(self.wrong("empty command"));
        }
        Ok(Command { args, at })
    }

    fn operand(&mut self) -> Parsed<Option<Term>> {
        let Some(mut term) = self.term()? else {
            return Ok(None);
        };
        let at = self.peek().at;
        let mut fields = Vec::new();
        while self.peek().kind == Kind::Field {
            fields.push(self.take().text[1..].to_owned());
        }
        if fields.is_empty() {
            return Ok(Some(term));
        }
        term.kind = match term.kind {
            TermKind::Field(mut first) => {
                first.append(&mut fields);
                TermKind::Field(first)
            }
            TermKind::Variable(name, _) => TermKind::Variable(name, fields),
            TermKind::Function(_) | TermKind::Pipe(_) => {
                TermKind::Chain(Box::new(term.clone()), fields)
            }
            _ => {
                let m = format!("unexpected . after term {:?}", term.to_string());
                return Err(self.wrong(m));
            }
        };
        term.at = at;
        Ok(Some(term))
    }

    fn term(&mut self) -> Parsed<Option<Term>> {
        let token = self.take_solid();
        let kind = match token.kind {
            Kind::Identifier => {
                if !func::exists(&token.text) {
                    let m = format!("function {:?} not defined", token.text);
                    return Err(self.wrong(m));
                }
                TermKind::Function(token.text)
            }
            Kind::Dot => TermKind::Dot,
            Kind::Nil => TermKind::Nil,
            Kind::Bool => TermKind::Bool(token.text == "true"),
            Kind::Field => TermKind::Field(vec![token.text[1..].to_owned()]),
            Kind::Variable => {
                if !self.variables.contains(&token.text) {
                    let m = format!("undefined variable {:?}", token.text);
                    return Err(self.wrong(m));
                }
                TermKind::Variable(token.text, Vec::new())
            }
            Kind::Number => number(&token.text).map_err(|m| self.wrong(m))?,
            Kind::CharConstant => {
                let inner = &token.text[1..token.text.len() - 1];
                let value = unquote(inner, '\'').filter(|s| s.chars().count() == 1);
                let Some(c) = value.and_then(|s| s.chars().next()) else {
                    let m = format!("malformed character constant: {}", token.text);
                    return Err(self.wrong(m));
                };
                TermKind::Int(u32::from(c).into(), token.text)
            }
            Kind::String => {
                let inner = &token.text[1..token.text.len() - 1];
                match unquote(inner, '"') {
                    Some(value) => TermKind::Text(value, token.text),
                    None => return Err(self.wrong("invalid syntax")),
                }
            }
            Kind::RawString => {
                TermKind::Text(token.text[1..token.text.len() - 1].to_owned(), token.text)
            }
            Kind::LeftParen => {
                let pipe =
                    self.deeper(|p| p.pipeline("parenthesized pipeline", Kind::RightParen))?;
                TermKind::Pipe(Box::new(pipe))
            }
            _ => {
                self.next -= 1;
                return Ok(None);
            }
        };
        Ok(Some(Term { kind, at: token.at }))
    }
}
