//! Which prompts matter, and which of them stay.
//!
//! With p the trained prompts `[n, P, D]` and g the gradient of a batch's mean loss at them, the gradient at a mask entry
//! of one is Σ p·g over what the entry masks: all blocks and dimensions of a token, or those of one of its segments
//! (dimension d belongs to segment d mod S). So `signed` and `abs` are what the authors of E²VPT compute by masks.
//!
//! In a pre-norm backbone a deep prompt enters through a LayerNorm, which does not see its length, so Σ_d p·g is nearly
//! zero in every block, whatever the token is worth: what is left is the norm's ε. `taylor` sums |p·g| instead, which
//! does not cancel, and `leave_one_out` measures.

use std::collections::BTreeMap;

use serde_json::json;
use sweeps::recipe::{Importance, Pruning, Scope};
use tch::{Device, Kind, Tensor};

use crate::tuning::Kept;

/// How much each token and each segment matters; the least go first. On the CPU, float64.
#[derive(Debug)]
pub(super) struct Importances {
    /// `[P]`, or `[n, P]` where blocks are ranked together.
    pub tokens: Tensor,
    /// `[P, S]`, if there are segments to be pruned.
    pub segments: Option<Tensor>,
}

/// Mean over batches.
#[derive(Debug, Default)]
pub(super) struct Mean {
    sums: Option<(Tensor, Option<Tensor>)>,
    batches: f64,
}

impl Mean {
    /// Adds a batch: prompts and their gradient, `[n, P, D]`. `segments`: how many there are to a token.
    pub(super) fn add(&mut self, how: &Pruning, segments: Option<i64>, p: &Tensor, g: &Tensor) {
        let terms = double(p) * double(g);
        let terms = if how.importance == Importance::Taylor { terms.abs() } else { terms };
        let (n, tokens, width) = terms.size3().expect("prompts have three axes");
        let by_block = terms.sum_dim_intlist(2, false, Kind::Double); // [n, P]
        let of_tokens = match how.scope {
            Scope::Tokens => by_block.sum_dim_intlist(0, false, Kind::Double),
            Scope::Global => by_block,
        };
        let of_segments = segments.map(|segments| {
            let parts = terms.reshape([n, tokens, width / segments, segments]);
            parts.sum_dim_intlist([0, 2].as_slice(), false, Kind::Double) // [P, S]
        });
        self.add_masks(how, &of_tokens, of_segments.as_ref());
    }

    /// Adds a batch whose gradients at the masks are known.
    pub(super) fn add_masks(&mut self, how: &Pruning, tokens: &Tensor, segments: Option<&Tensor>) {
        let counted = |gradient: &Tensor| {
            let gradient = double(gradient);
            if how.importance == Importance::Abs { gradient.abs() } else { gradient }
        };
        let (tokens, segments) = (counted(tokens), segments.map(counted));
        self.sums = Some(match self.sums.take() {
            None => (tokens, segments),
            Some((a, b)) => (a + tokens, b.zip(segments).map(|(b, new)| b + new)),
        });
        self.batches += 1.0;
    }

    /// `None`: there was no batch.
    pub(super) fn finish(self) -> Option<Importances> {
        let (tokens, segments) = self.sums?;
        let n = self.batches;
        Some(Importances { tokens: tokens / n, segments: segments.map(|sum| sum / n) })
    }
}

/// On the CPU, float64.
fn double(t: &Tensor) -> Tensor {
    t.detach().to_device(Device::Cpu).to_kind(Kind::Double)
}

/// What stays of `[n, P]` prompts with S segments each. Of two that matter alike, the earlier goes first.
pub(super) fn keep(importances: &Importances, how: &Pruning, blocks: u32) -> Kept {
    let length = *importances.tokens.size().last().unwrap_or(&0);
    let gone = i64::from(how.tokens_to_go(length as u32, blocks));
    let mut tokens = Vec::new();
    if gone > 0 {
        let rows = if importances.tokens.dim() == 1 { 1 } else { i64::from(blocks) };
        tokens = vec![Vec::new(); rows as usize];
        for i in ranked(&importances.tokens.reshape([-1])).into_iter().skip(gone as usize) {
            tokens[(i / length) as usize].push(i % length);
        }
        tokens.iter_mut().for_each(|block| block.sort_unstable());
    }
    let segments = importances.segments.as_ref().and_then(|scores| {
        let (_, count) = scores.size2().ok()?;
        let gone = how.segments_to_go(count as u32) as usize;
        (gone > 0).then(|| segment_mask(scores, gone))
    });
    Kept { tokens, segments }
}

/// `[P, S]` of zeros and ones: of each token, the `gone` segments that matter least are zero.
fn segment_mask(scores: &Tensor, gone: usize) -> Tensor {
    let mask = Tensor::ones(scores.size(), (Kind::Float, Device::Cpu));
    for token in 0..scores.size()[0] {
        let row: Vec<i64> = ranked(&scores.get(token)).into_iter().take(gone).collect();
        let _ = mask.get(token).index_fill_(0, &Tensor::from_slice(&row), 0.0);
    }
    mask
}

/// Indices of `[N]`, what matters least first.
fn ranked(scores: &Tensor) -> Vec<i64> {
    let scores: Vec<f64> = Vec::try_from(scores).expect("a vector of doubles");
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order.into_iter().map(|i| i as i64).collect()
}

/// Prompts `[K, n, P, D]` without what goes: `[K, n, P', D]`, or `[K, ΣP', D]` where blocks keep different numbers.
pub(super) fn cut(prompt: &Tensor, kept: &Kept) -> Tensor {
    if kept.tokens.is_empty() {
        return prompt.shallow_clone();
    }
    let of = |i: i64| &kept.tokens[if kept.tokens.len() == 1 { 0 } else { i as usize }];
    let blocks: Vec<Tensor> = (0..prompt.size()[1])
        .map(|i| {
            let rows = Tensor::from_slice(of(i)).to_device(prompt.device());
            prompt.select(1, i).index_select(1, &rows) // [K, P', D]
        })
        .collect();
    if blocks.iter().all(|block| block.size() == blocks[0].size()) {
        Tensor::stack(&blocks, 1)
    } else {
        Tensor::cat(&blocks, 1)
    }
}

/// Prompts `[P]` and segments `[P, S]` that were taken out of a trial, and why.
#[derive(Debug)]
pub(super) struct Pruned {
    pub kept: Kept,
    pub importances: Importances,
}

/// Bytes that the coordinator takes.
const LONGEST_REPORT: usize = 1 << 20;

/// `[n, m]` in rows, rounded to six digits.
fn rows(t: &Tensor) -> Vec<Vec<f64>> {
    let rounded = |x: f64| format!("{x:.5e}").parse().unwrap_or(x);
    let row =
        |i| Vec::<f64>::try_from(double(&t.get(i))).unwrap_or_default().into_iter().map(rounded).collect();
    (0..t.size()[0]).map(row).collect()
}

const COUNTS: &str = "pruned.counts";
const TOKENS: &str = "pruned.tokens";
const SEGMENTS: &str = "pruned.segments";
const OF_TOKENS: &str = "importance.token";
const OF_SEGMENTS: &str = "importance.piece";

impl Pruned {
    /// As tensors of an artifact or a checkpoint: `pruned.tokens`, the indices of the tokens that stay, of all lists one
    /// behind the other; `pruned.counts`, their lengths, one for all blocks or one a block, none where all stay;
    /// `pruned.segments` `[P, S]` of zeros and ones; and the importances that decided.
    pub(super) fn tensors(&self) -> BTreeMap<String, Tensor> {
        let mut tensors = kept_tensors(&self.kept);
        tensors.insert(OF_TOKENS.to_owned(), self.importances.tokens.shallow_clone());
        if let Some(segments) = &self.importances.segments {
            tensors.insert(OF_SEGMENTS.to_owned(), segments.shallow_clone());
        }
        tensors
    }

    /// In JSON, for people: `tokens` and `segments`, what they scored; `kept` and `kept_segments`, which stay; lists of a
    /// block, or of a token. `first`: the block that the first list of tokens belongs to. Scores have six digits; what
    /// would not go through the wire is left to the artifact.
    pub(super) fn report(&self, first: u32) -> String {
        let scores = &self.importances.tokens;
        let length = *scores.size().last().unwrap_or(&0);
        let blocks = rows(&scores.reshape([-1, length]));
        let all: Vec<i64> = (0..length).collect();
        let kept: Vec<&[i64]> = (0..blocks.len()).map(|block| self.kept.of(block).unwrap_or(&all)).collect();
        let mut report = json!({"first": first, "tokens": blocks, "kept": kept});
        let segments = self.importances.segments.as_ref().zip(self.kept.segments.as_ref());
        if let (Some((scores, mask)), Some(fields)) = (segments, report.as_object_mut()) {
            let stay = |row: Vec<f64>| -> Vec<usize> { (0..row.len()).filter(|&i| row[i] > 0.0).collect() };
            let stay: Vec<Vec<usize>> = rows(mask).into_iter().map(stay).collect();
            fields.insert("segments".to_owned(), json!(rows(scores)));
            fields.insert("kept_segments".to_owned(), json!(stay));
        }
        let whole = report.to_string();
        if whole.len() <= LONGEST_REPORT { whole } else { json!({"first": first}).to_string() }
    }

    /// What [`Pruned::tensors`] wrote; `None` if nothing was pruned.
    pub(super) fn read(tensors: &BTreeMap<String, Tensor>) -> Option<Pruned> {
        let kept = read_kept(tensors)?;
        let tokens = tensors.get(OF_TOKENS)?.shallow_clone();
        let segments = tensors.get(OF_SEGMENTS).map(Tensor::shallow_clone);
        Some(Pruned { kept, importances: Importances { tokens, segments } })
    }
}

fn kept_tensors(kept: &Kept) -> BTreeMap<String, Tensor> {
    let counts: Vec<i64> = kept.tokens.iter().map(|block| block.len() as i64).collect();
    let all: Vec<i64> = kept.tokens.concat();
    let mut tensors = BTreeMap::from([
        (COUNTS.to_owned(), Tensor::from_slice(&counts)),
        (TOKENS.to_owned(), Tensor::from_slice(&all)),
    ]);
    if let Some(segments) = &kept.segments {
        tensors.insert(SEGMENTS.to_owned(), segments.shallow_clone());
    }
    tensors
}

/// What pruning left, out of an artifact's tensors.
pub(super) fn read_kept(tensors: &BTreeMap<String, Tensor>) -> Option<Kept> {
    let numbers = |name: &str| Vec::<i64>::try_from(tensors.get(name)?).ok();
    let (counts, mut rest) = (numbers(COUNTS)?, numbers(TOKENS)?);
    let mut tokens = Vec::new();
    for count in counts {
        let tail = rest.split_off(usize::try_from(count).ok().filter(|&n| n <= rest.len())?);
        tokens.push(std::mem::replace(&mut rest, tail));
    }
    Some(Kept { tokens, segments: tensors.get(SEGMENTS).map(Tensor::shallow_clone) })
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
