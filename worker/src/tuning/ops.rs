//! Operations that methods share.

use tch::Tensor;

use super::{Site, Step};

/// softmax(q kᵀ/√d) v by libtorch's fused kernel.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, false, None, false)
}

/// Inserts prompts `[K·B, P, D]` behind CLS; `replaced` slots that stand there already are dropped.
pub(super) fn insert(x: &Tensor, prompts: &Tensor, replaced: i64) -> Tensor {
    let rest = 1 + replaced;
    Tensor::cat(&[x.narrow(1, 0, 1), prompts.shallow_clone(), x.narrow(1, rest, x.size()[1] - rest)], 1)
}

/// Repeats a per-member tensor `[K, …]` for each of the member's samples: `[K·B, …]`.
pub(super) fn per_sample(value: &Tensor, batch: i64) -> Tensor {
    let size = value.size();
    let (members, rest) = (size[0], &size[1..]);
    let expanded = [&[members, batch], rest].concat();
    let joined = [&[members * batch], rest].concat();
    value.unsqueeze(1).expand(expanded, false).reshape(joined)
}

/// One linear layer per member: `x` `[K·B, …, I]`, weight `[K, O, I]`, bias `[K, O]` → `[K·B, …, O]`.
pub(super) fn per_member(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (members, out, width) = weight.size3().expect("a member's weight is a matrix");
    let mut shape = x.size();
    *shape.last_mut().expect("x has axes") = out;
    let x = x.reshape([members, -1, width]);
    let y = match bias {
        Some(bias) => bias.unsqueeze(1).baddbmm(&x, &weight.transpose(1, 2), 1.0, 1.0),
        None => x.bmm(&weight.transpose(1, 2)),
    };
    y.reshape(shape)
}

/// Dropout of prompts `[K·B, P, D]`, in training only.
pub(super) fn dropped(p: Tensor, rate: f64, at: Site<'_>) -> Tensor {
    match at.step.noise {
        Some(noise) if rate > 0.0 => noise.dropout(&p, rate, &format!("dropout {}", at.layer)),
        _ => p,
    }
}

/// Samples of one member in a batch `[K·B, …]`.
pub(super) fn batch_of(x: &Tensor, step: Step<'_>) -> i64 {
    x.size()[0] / step.members
}
