//! Template text to tokens, as Go's `text/template` cuts it.

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// The text as it stands.
    pub(super) text: String,
    /// Byte offset in the template.
    pub(super) at: usize,
    /// Line, from 1.
    pub(super) line: usize,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The text is the message.
    Error,
    End,
    Text,
    LeftDelim,
    RightDelim,
    Space,
    /// A character without a meaning of its own.
    Char,
    Comma,
    Declare,
    Assign,
    Pipe,
    LeftParen,
    RightParen,
    Dot,
    Field,
    Variable,
    Identifier,
    Keyword,
    Nil,
    Bool,
    Number,
    CharConstant,
    String,
    RawString,
}

const KEYWORDS: &[&str] = &[
    "block", "break", "continue", "define", "else", "end", "if", "range", "template", "with",
];
const SPACES: &[char] = &[' ', '\t', '\r', '\n'];

/// All tokens; the last is [`Kind::End`] or [`Kind::Error`].
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        text,
        at: 0,
        tokens: Vec::new(),
        parens: 0,
        counted: 0,
        line: 1,
    };
    if lexer.all().is_none() {
        debug_assert!(lexer.tokens.last().is_some_and(|t| t.kind == Kind::Error));
    }
    lexer.tokens
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
    parens: usize,
    /// Up to where lines are counted.
    counted: usize,
    line: usize,
}

/// `None` ends the work: an error token was added.
type Go = Option<()>;

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn push(&mut self, kind: Kind, len: usize) {
        let text = self.text[self.at..self.at + len].to_owned();
        self.push_text(kind, text);
        self.at += len;
    }

    fn push_text(&mut self, kind: Kind, text: String) {
        let passed = &self.text[self.counted..self.at];
        self.line += passed.matches('\n').count();
        self.counted = self.at;
        self.tokens.push(Token {
            kind,
            text,
            at: self.at,
            line: self.line,
        });
    }

    fn fail(&mut self, message: impl Into<String>) -> Go {
        self.push_text(Kind::Error, message.into());
        None
    }

    fn all(&mut self) -> Go {
        loop {
            let Some(open) = self.rest().find("{{") else {
                let len = self.rest().len();
                if len > 0 {
                    self.push(Kind::Text, len);
                }
                self.push_text(Kind::End, String::new());
                return Some(());
            };
            let after = &self.rest()[open + 2..];
            let trim = after.starts_with('-') && after[1..].starts_with(SPACES);
            let text = &self.rest()[..open];
            let kept = if trim {
                text.trim_end_matches(SPACES).len()
            } else {
                open
            };
            if kept > 0 {
                self.push(Kind::Text, kept);
            }
            self.at += open - kept;
            self.delimited(trim)?;
        }
    }

    /// From `{{` to behind `}}` and the spaces that it trims.
    fn delimited(&mut self, trim: bool) -> Go {
        let marker = if trim { 2 } else { 0 };
        if self.rest()[2 + marker..].starts_with("/*") {
            self.at += 2 + marker;
            let Some(end) = self.rest().find("*/") else {
                return self.fail("unclosed comment");
            };
            self.at += end + 2;
            let Some((len, trim)) = self.right_delim() else {
                return self.fail("comment ends before closing delimiter");
            };
            self.at += len;
            self.trim_after(trim);
            return Some(());
        }
        self.push(Kind::LeftDelim, 2);
        self.at += marker;
        self.parens = 0;
        loop {
            if let Some((len, trim)) = self.right_delim() {
                if self.parens > 0 {
                    return self.fail("unclosed left paren");
                }
                self.at += len - 2;
                self.push(Kind::RightDelim, 2);
                self.trim_after(trim);
                return Some(());
            }
            self.inside()?;
        }
    }

    /// Length of the closing delimiter that stands here, and whether it trims.
    fn right_delim(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        let trimmed = rest
            .strip_prefix(SPACES)
            .is_some_and(|r| r.starts_with("-}}"));
        match (trimmed, rest.starts_with("}}")) {
            (true, _) => Some((4, true)),
            (_, true) => Some((2, false)),
            _ => None,
        }
    }

    fn trim_after(&mut self, trim: bool) {
        if trim {
            self.at += self.rest().len() - self.rest().trim_start_matches(SPACES).len();
        }
    }

    /// One token within an action.
    fn inside(&mut self) -> Go {
        let Some(c) = self.peek() else {
            return self.fail("unclosed action");
        };
        let second = self.rest().chars().nth(1);
        match c {
            ' ' | '\t' | '\r' | '\n' => {
                let mut len = 0;
                // A space before `-}}` belongs to it.
                while self.rest()[len..].starts_with(SPACES)
                    && !self.rest()[len + 1..].starts_with("-}}")
                {
                    len += 1;
                }
                self.push(Kind::Space, len);
            }
            '=' => self.push(Kind::Assign, 1),
            ':' if second == Some('=') => self.push(Kind::Declare, 2),
            ':' => return self.fail("expected :="),
            '|' => self.push(Kind::Pipe, 1),
            ',' => self.push(Kind::Comma, 1),
            '"' => return self.quoted('"', Kind::String, "unterminated quoted string"),
            '\'' => {
                return self.quoted('\'', Kind::CharConstant, "unterminated character constant");
            }
            '`' => match self.rest()[1..].find('`') {
                Some(end) => self.push(Kind::RawString, end + 2),
                None => return self.fail("unterminated raw quoted string"),
            },
            '$' => return self.name(Kind::Variable),
            '.' if !second.is_some_and(|c| c.is_ascii_digit()) => return self.name(Kind::Field),
            '+' | '-' | '.' | '0'..='9' => return self.number(),
            c if is_word(c) => return self.identifier(),
            '(' => {
                self.parens += 1;
                self.push(Kind::LeftParen, 1);
            }
            ')' => {
                if self.parens == 0 {
                    return self.fail("unexpected right paren");
                }
                self.parens -= 1;
                self.push(Kind::RightParen, 1);
            }
            c if c.is_ascii() && !c.is_ascii_control() => self.push(Kind::Char, 1),
            c => return self.fail(format!("unrecognized character in action: {}", code(c))),
        }
        Some(())
    }

    fn quoted(&mut self, quote: char, kind: Kind, unterminated: &str) -> Go {
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\n' => break,
                '\\' if !matches!(chars.next(), None | Some((_, '\n'))) => {}
                '\\' => break,
                c if c == quote => {
                    self.push(kind, at + 1);
                    return Some(());
                }
                _ => {}
            }
        }
        self.fail(unterminated)
    }

    fn word_end(&self, from: usize) -> usize {
        let rest = &self.rest()[from..];
        from + rest.find(|c| !is_word(c)).unwrap_or(rest.len())
    }

    /// `.Name`, `$name`, or `.` or `$` alone.
    fn name(&mut self, kind: Kind) -> Go {
        let end = self.word_end(1);
        if end == 1 && kind == Kind::Field {
            self.push(Kind::Dot, 1);
            return Some(());
        }
        self.ends_well(end)?;
        self.push(kind, end);
        Some(())
    }

    fn identifier(&mut self) -> Go {
        let end = self.word_end(0);
        self.ends_well(end)?;
        let kind = match &self.rest()[..end] {
            "nil" => Kind::Nil,
            "true" | "false" => Kind::Bool,
            word if KEYWORDS.contains(&word) => Kind::Keyword,
            _ => Kind::Identifier,
        };
        self.push(kind, end);
        Some(())
    }

    /// What may follow a name.
    fn ends_well(&mut self, end: usize) -> Go {
        let rest = &self.rest()[end..];
        match rest.chars().next() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | ')' | '(') => Some(()),
            Some(_) if rest.starts_with("}}") => Some(()),
            Some(c) => {
                let message = format!("bad character {}", code(c));
                self.fail(message)
            }
        }
    }

    fn number(&mut self) -> Go {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let mut at = usize::from(matches!(bytes[0], b'+' | b'-'));
        let prefix = |p: char| {
            rest[at..].starts_with(['0']) && {
                rest[at + 1..].starts_with([p, p.to_ascii_uppercase()])
            }
        };
        let (digits, exponent): (&str, &str) = if prefix('x') {
            ("0123456789abcdefABCDEF_", "pP")
        } else if prefix('o') {
            ("01234567_", "")
        } else if prefix('b') {
            ("01_", "")
        } else {
            ("0123456789_", "eE")
        };
        if exponent != "eE" {
            at += 2;
        }
        let run = |mut at: usize| {
            while bytes.get(at).is_some_and(|b| digits.as_bytes().contains(b)) {
                at += 1;
            }
            at
        };
        at = run(at);
        if bytes.get(at) == Some(&b'.') {
            at = run(at + 1);
        }
        if bytes
            .get(at)
            .is_some_and(|b| exponent.as_bytes().contains(b))
        {
            at += 1;
            at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
            while bytes
                .get(at)
                .is_some_and(|b| b.is_ascii_digit() || *b == b'_')
            {
                at += 1;
            }
        }
        if let Some(c) = rest[at..].chars().next().filter(|c| is_word(*c)) {
            let message = format!("bad number syntax: {:?}", &rest[..at + c.len_utf8()]);
            return self.fail(message);
        }
        self.push(Kind::Number, at);
        Some(())
    }
}

/// A character as Go's `%#U` shows it.
fn code(c: char) -> String {
    if c.is_control() {
        format!("U+{:04X}", u32::from(c))
    } else {
        format!("U+{:04X} '{c}'", u32::from(c))
    }
}
