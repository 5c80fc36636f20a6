//! From text to tree.

use serde_json::Value;

use super::{FilterError, MAX_DEPTH, MAX_LENGTH, Node, Operator, Test};

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Operator(Operator),
    Open,
    Close,
    Comma,
}

pub(super) fn parse(text: &str) -> Result<Node, FilterError> {
    let fail = |at, message: String| FilterError { text: text.to_owned(), at, message };
    if text.len() > MAX_LENGTH {
        return Err(fail(0, format!("the expression is longer than {MAX_LENGTH} bytes")));
    }
    let tokens = tokens(text).map_err(|(at, message)| fail(at, message))?;
    let mut parser = Parser { tokens: &tokens, next: 0, end: text.chars().count() };
    let node = parser.either(0).map_err(|(at, message)| fail(at, message))?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(fail(parser.at(), "expected `and`, `or` or the end".to_owned())),
    }
}

/// Characters of names and bare values: enough for `vtab/dtd`, `val/top1`, `-1e-4`, `a.b`, `1:5`.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | '+' | ':' | '*' | '@' | '#' | '%')
}

type Placed<T> = Result<T, (usize, String)>;

fn tokens(text: &str) -> Placed<Vec<(usize, Token)>> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let start = at;
        let follows = |wanted: char| chars.get(start + 1) == Some(&wanted);
        at += 1;
        let token = match c {
            _ if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '~' => Token::Operator(Operator::Contains),
            '\'' | '"' => {
                let length = chars[at..].iter().position(|end| *end == c);
                let length =
                    length.ok_or((start, format!("the text that begins here has no closing {c}")))?;
                let inside = chars[at..at + length].iter().collect();
                at += length + 1;
                Token::Quoted(inside)
            }
            '=' | '!' | '<' | '>' => {
                let double = follows('=');
                at += usize::from(double);
                Token::Operator(match (c, double) {
                    ('=', _) if follows('>') => {
                        return Err((start, "unknown operator `=>`: write `>=`".to_owned()));
                    }
                    ('=', _) => Operator::Equal,
                    ('!', true) => Operator::Unequal,
                    ('<', true) => Operator::AtMost,
                    ('<', false) => Operator::Less,
                    ('>', true) => Operator::AtLeast,
                    ('>', false) => Operator::Greater,
                    _ => return Err((start, "unknown operator `!`: write `!=` or `not`".to_owned())),
                })
            }
            _ if is_word(c) => {
                while chars.get(at).copied().is_some_and(is_word) {
                    at += 1;
                }
                Token::Word(chars[start..at].iter().collect())
            }
            '&' | '|' => return Err((start, "write `and` and `or`".to_owned())),
            _ => {
                return Err((
                    start,
                    format!("unexpected {c:?}: put quotes around texts with such characters"),
                ));
            }
        };
        tokens.push((start, token));
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    next: usize,
    /// Characters of the whole text.
    end: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Placed<T> {
        Err((self.at(), message.into()))
    }

    /// Takes a keyword, however it is capitalised.
    fn takes(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
        self.next += usize::from(found);
        found
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.next += usize::from(found);
        found
    }

    fn either(&mut self, depth: u32) -> Placed<Node> {
        let mut nodes = vec![self.both(depth)?];
        while self.takes("or") {
            nodes.push(self.both(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.swap_remove(0) } else { Node::Any(nodes) })
    }

    fn both(&mut self, depth: u32) -> Placed<Node> {
        let mut nodes = vec![self.term(depth)?];
        while self.takes("and") {
            nodes.push(self.term(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.swap_remove(0) } else { Node::All(nodes) })
    }

    fn term(&mut self, depth: u32) -> Placed<Node> {
        if depth > MAX_DEPTH {
            return self.fail(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if self.takes("not") {
            return Ok(Node::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.take(&Token::Open) {
            let node = self.either(depth + 1)?;
            return if self.take(&Token::Close) { Ok(node) } else { self.fail("expected `)`") };
        }
        let at = self.at();
        let name = match self.peek() {
            Some(Token::Word(word)) if !is_keyword(word) => word.clone(),
            Some(Token::Quoted(name)) => name.clone(),
            _ => return self.fail("expected a name, as in `lr > 0.1`"),
        };
        self.next += 1;
        let test = self.test()?;
        Ok(Node::Test { name, at, test })
    }

    fn test(&mut self) -> Placed<Test> {
        if self.takes("in") {
            return self.list();
        }
        let Some(Token::Operator(operator)) = self.peek() else {
            return self.fail("expected `=`, `!=`, `<`, `<=`, `>`, `>=`, `~` or `in`");
        };
        let operator = *operator;
        self.next += 1;
        Ok(Test::Is(operator, self.value()?))
    }

    fn list(&mut self) -> Placed<Test> {
        const WANTED: &str = "expected a list in parentheses, as in `lr in (0.1, 0.5)`";
        if !self.take(&Token::Open) {
            return self.fail(WANTED);
        }
        let mut values = vec![self.value()?];
        while self.take(&Token::Comma) {
            values.push(self.value()?);
        }
        if self.take(&Token::Close) { Ok(Test::In(values)) } else { self.fail("expected `,` or `)`") }
    }

    fn value(&mut self) -> Placed<Value> {
        let value = match self.peek() {
            Some(Token::Quoted(text)) => Value::from(text.as_str()),
            Some(Token::Word(word)) if !is_keyword(word) => bare(word),
            _ => return self.fail("expected a value: a number, a word or a quoted text"),
        };
        self.next += 1;
        Ok(value)
    }
}

fn is_keyword(word: &str) -> bool {
    ["and", "or", "not", "in"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}

/// A bare word: a number where it reads as one.
fn bare(word: &str) -> Value {
    let starts_well = word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    match word {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        _ => match word.parse::<f64>() {
            Ok(number) if starts_well && number.is_finite() => number.into(),
            _ => word.into(),
        },
    }
}
