//! YAML text to a tree of values that know where they were written.
//!
//! The only importer of the YAML crate, which is `saphyr-parser`: it reports every node's line and column, so that
//! a mistake found long after parsing is still shown at its place. (`serde_yaml` is archived, and what it
//! deserialises has forgotten its position.) What a plain scalar means is decided here, by the core schema of YAML
//! 1.2, and pinned by tests. What a file may cost is bounded here by name, aliases expanded included.

mod scalar;

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use crate::value::Value;

/// The largest sweep file, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting of lists and maps.
pub(crate) const MAX_DEPTH: usize = 64;
/// The most nodes once aliases are expanded.
pub(crate) const MAX_NODES: usize = 200_000;
/// The most bytes of strings once aliases are expanded.
pub(crate) const MAX_EXPANDED_BYTES: usize = 8 << 20;

/// Where something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Mark {
    /// 0: the file; n: the n-th override.
    pub(crate) source: u32,
    /// From 1.
    pub(crate) line: u32,
    /// From 1, in characters.
    pub(crate) column: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Mark,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Never a list or a map.
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value; maps keep the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Mark,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => Value::List(items.iter().map(Node::to_value).collect()),
            Kind::Map(entries) => {
                Value::Map(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value())).collect())
            }
        }
    }
}

/// Why a text is no acceptable YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct YamlError {
    pub(crate) at: Mark,
    pub(crate) problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("the file has {0} bytes, more than {MAX_BYTES}: split the sweep into several files")]
    TooLarge(usize),
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("more than {MAX_NODES} values once aliases are expanded")]
    TooManyNodes,
    #[error("more than {MAX_EXPANDED_BYTES} bytes of text once aliases are expanded")]
    TooMuchText,
    #[error("not YAML: {0}")]
    Syntax(String),
    #[error("a second document begins here: one file holds one sweep")]
    SecondDocument,
    #[error("the key `{key}` is already set in line {line}: keep one of them")]
    DuplicateKey { key: String, line: u32 },
    #[error("a key must be a string, found {0}: put quotes around it")]
    KeyIsNoString(String),
    #[error("merge keys (`<<`) are not part of YAML 1.2: write the keys out")]
    MergeKey,
    #[error("the alias refers to a value that it is part of")]
    AliasOfItself,
    #[error("tags other than `!!str` are not supported: leave it out")]
    Tag,
    #[error("`{0}` is not a finite number that fits 64 bits")]
    Number(String),
}

/// Parses one document. `source` is what [`Mark::source`] shall say.
pub(crate) fn parse(text: &str, source: u32) -> Result<Node, YamlError> {
    let start = Mark { source, line: 1, column: 1 };
    if text.len() > MAX_BYTES {
        return Err(YamlError { at: start, problem: Problem::TooLarge(text.len()) });
    }
    let mut builder = Builder::default();
    let mut documents = 0;
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| YamlError {
            at: mark(source, error.marker()),
            problem: Problem::Syntax(error.info().to_owned()),
        })?;
        let at = mark(source, &span.start);
        let fail = |problem| YamlError { at, problem };
        if let Event::DocumentStart(_) = event {
            documents += 1;
            if documents > 1 {
                return Err(fail(Problem::SecondDocument));
            }
        }
        builder.event(event, at).map_err(fail)?;
    }
    Ok(builder.root.unwrap_or(Node { at: start, kind: Kind::Scalar(Value::Null) }))
}

fn mark(source: u32, marker: &saphyr_parser::Marker) -> Mark {
    // A file of at most a mebibyte has no line or column beyond 32 bits.
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Mark { source, line: number(marker.line()).max(1), column: number(marker.col() + 1) }
}

/// What an anchored node costs when an alias repeats it.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    bytes: usize,
    height: usize,
}

#[derive(Default)]
struct Builder {
    stack: Vec<Frame>,
    root: Option<Node>,
    anchors: HashMap<usize, (Node, Weight)>,
    nodes: usize,
    bytes: usize,
}

/// A list or a map that is still open.
struct Frame {
    at: Mark,
    anchor: usize,
    open: Open,
}

enum Open {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, lines: HashMap<String, u32>, key: Option<(String, Mark)> },
}

impl Builder {
    fn event(&mut self, event: Event<'_>, at: Mark) -> Result<(), Problem> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref())?;
                self.charge(Weight { nodes: 1, bytes: text.len(), height: 0 })?;
                let is_merge = style == ScalarStyle::Plain && text == "<<";
                self.close(Node { at, kind: Kind::Scalar(value) }, anchor, is_merge)
            }
            Event::SequenceStart(anchor, tag) => self.open(at, anchor, tag.is_some(), Open::List(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                let map = Open::Map { entries: Vec::new(), lines: HashMap::new(), key: None };
                self.open(at, anchor, tag.is_some(), map)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame { at, anchor, open: Open::List(items) }) => {
                    self.close(Node { at, kind: Kind::List(items) }, anchor, false)
                }
                Some(Frame { at, anchor, open: Open::Map { entries, .. } }) => {
                    self.close(Node { at, kind: Kind::Map(entries) }, anchor, false)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                // The bounds are checked before anything is copied.
                let (_, weight) = self.anchors.get(&anchor).ok_or(Problem::AliasOfItself)?;
                self.charge(*weight)?;
                let node = self.anchors.get(&anchor).ok_or(Problem::AliasOfItself)?.0.clone();
                self.close(node, 0, false)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, at: Mark, anchor: usize, has_tag: bool, open: Open) -> Result<(), Problem> {
        if has_tag {
            return Err(Problem::Tag);
        }
        self.charge(Weight { nodes: 1, bytes: 0, height: 1 })?;
        self.stack.push(Frame { at, anchor, open });
        Ok(())
    }

    /// Counts what is about to be added at the present depth.
    fn charge(&mut self, weight: Weight) -> Result<(), Problem> {
        self.nodes += weight.nodes;
        self.bytes += weight.bytes;
        if self.stack.len() + weight.height > MAX_DEPTH {
            Err(Problem::TooDeep)
        } else if self.nodes > MAX_NODES {
            Err(Problem::TooManyNodes)
        } else if self.bytes > MAX_EXPANDED_BYTES {
            Err(Problem::TooMuchText)
        } else {
            Ok(())
        }
    }

    /// Hands a complete node to the list or map around it.
    fn close(&mut self, node: Node, anchor: usize, is_merge: bool) -> Result<(), Problem> {
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), weigh(&node)));
        }
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { entries, key, lines }) => match key.take() {
                Some((key, at)) => entries.push(Entry { key, at, value: node }),
                None if is_merge => return Err(Problem::MergeKey),
                None => {
                    let Kind::Scalar(Value::String(name)) = node.kind else {
                        return Err(Problem::KeyIsNoString(node.to_value().describe()));
                    };
                    if let Some(line) = lines.insert(name.clone(), node.at.line) {
                        return Err(Problem::DuplicateKey { key: name, line });
                    }
                    *key = Some((name, node.at));
                }
            },
        }
        Ok(())
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, Problem> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(Value::String(text.to_owned())),
        Some(_) => Err(Problem::Tag),
        None if style != ScalarStyle::Plain => Ok(Value::String(text.to_owned())),
        None => scalar::resolve(text).ok_or_else(|| Problem::Number(text.to_owned())),
    }
}

/// Whether a tree put together from several texts keeps the bounds of one.
pub(crate) fn check_bounds(node: &Node) -> Result<(), Problem> {
    let weight = weigh(node);
    if weight.height > MAX_DEPTH {
        Err(Problem::TooDeep)
    } else if weight.nodes > MAX_NODES {
        Err(Problem::TooManyNodes)
    } else if weight.bytes > MAX_EXPANDED_BYTES {
        Err(Problem::TooMuchText)
    } else {
        Ok(())
    }
}

/// Recursion is safe here: nothing deeper than twice [`MAX_DEPTH`] is ever built.
fn weigh(node: &Node) -> Weight {
    let inside = |children: &mut dyn Iterator<Item = &Node>| {
        children.map(weigh).fold(Weight::default(), |sum, child| Weight {
            nodes: sum.nodes + child.nodes,
            bytes: sum.bytes + child.bytes,
            height: sum.height.max(child.height),
        })
    };
    match &node.kind {
        Kind::Scalar(Value::String(s)) => Weight { nodes: 1, bytes: s.len(), height: 0 },
        Kind::Scalar(_) => Weight { nodes: 1, bytes: 0, height: 0 },
        Kind::List(items) => {
            let inside = inside(&mut items.iter());
            Weight { nodes: inside.nodes + 1, height: inside.height + 1, ..inside }
        }
        Kind::Map(entries) => {
            let inside = inside(&mut entries.iter().map(|entry| &entry.value));
            let keys: usize = entries.iter().map(|entry| entry.key.len()).sum();
            Weight {
                nodes: inside.nodes + entries.len() + 1,
                bytes: inside.bytes + keys,
                height: inside.height + 1,
            }
        }
    }
}

#[cfg(test)]
mod tests;
