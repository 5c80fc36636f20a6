//! The names that checkpoints give to the tensors of a backbone, brought to ours.
//!
//! A scheme is told by one tensor that it alone has, and is a list of rules. In a rule `#` stands for a number and `*` for
//! the rest of a name. What no rule knows keeps its name, so that the check against the shape names it as unexpected.
//! Query, key and value under names of their own become `attn.q`, `attn.k` and `attn.v`, which are joined later.

use std::collections::BTreeSet;

use sweeps::recipe::Family;

/// A way to name tensors.
struct Scheme {
    family: Family,
    /// The tensor that tells it.
    mark: &'static str,
    rules: &'static [(&'static str, &'static str)],
}

/// Where encoders lie within larger models. The longest comes first; what lies elsewhere is no part of the backbone.
const PREFIXES: &[&str] = &[
    "module.base_encoder.",
    "module.encoder_q.",
    "base_encoder.",
    "convnext.",
    "backbone.",
    "dinov2.",
    "module.",
    "resnet.",
    "model.",
    "swin.",
    "vit.",
    "",
];

/// Parts of a checkpoint that are no part of the backbone: heads, decoders, and what can be computed again.
const LEFT_ASIDE: &[&str] = &[
    "head.*",
    "fc.*",
    "classifier.*",
    "pooler.*",
    "pre_logits.*",
    "decoder.*",
    "decoder_blocks.*",
    "decoder_embed.*",
    "decoder_norm.*",
    "decoder_pos_embed",
    "decoder_pred.*",
    "mask_token",
    "momentum_encoder.*",
    "predictor.*",
];

/// Buffers, by the last part of their names.
const BUFFERS: &[&str] = &["num_batches_tracked", "relative_position_index", "attn_mask"];

const SCHEMES: &[Scheme] = &[
    // timm, MAE, MoCo v3, DINO, DINOv2.
    Scheme { family: Family::Vit, mark: "blocks.0.attn.qkv.weight", rules: &[] },
    // transformers: ViT, ViTMAE, DINOv2.
    Scheme {
        family: Family::Vit,
        mark: "encoder.layer.0.attention.attention.query.weight",
        rules: &[
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.mask_token", "mask_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
            ("encoder.layer.#.layernorm_before.*", "blocks.#.norm1.*"),
            ("encoder.layer.#.layernorm_after.*", "blocks.#.norm2.*"),
            ("encoder.layer.#.norm1.*", "blocks.#.norm1.*"),
            ("encoder.layer.#.norm2.*", "blocks.#.norm2.*"),
            ("encoder.layer.#.attention.attention.query.*", "blocks.#.attn.q.*"),
            ("encoder.layer.#.attention.attention.key.*", "blocks.#.attn.k.*"),
            ("encoder.layer.#.attention.attention.value.*", "blocks.#.attn.v.*"),
            ("encoder.layer.#.attention.output.dense.*", "blocks.#.attn.proj.*"),
            ("encoder.layer.#.intermediate.dense.*", "blocks.#.mlp.fc1.*"),
            ("encoder.layer.#.output.dense.*", "blocks.#.mlp.fc2.*"),
            ("encoder.layer.#.mlp.*", "blocks.#.mlp.*"),
            ("encoder.layer.#.layer_scale1.lambda1", "blocks.#.ls1.gamma"),
            ("encoder.layer.#.layer_scale2.lambda1", "blocks.#.ls2.gamma"),
            ("layernorm.*", "norm.*"),
        ],
    },
    // The VPT code.
    Scheme {
        family: Family::Vit,
        mark: "transformer.encoder.layer.0.attn.query.weight",
        rules: &[
            ("transformer.embeddings.cls_token", "cls_token"),
            ("transformer.embeddings.position_embeddings", "pos_embed"),
            ("transformer.embeddings.patch_embeddings.*", "patch_embed.proj.*"),
            ("transformer.encoder.layer.#.attention_norm.*", "blocks.#.norm1.*"),
            ("transformer.encoder.layer.#.ffn_norm.*", "blocks.#.norm2.*"),
            ("transformer.encoder.layer.#.attn.query.*", "blocks.#.attn.q.*"),
            ("transformer.encoder.layer.#.attn.key.*", "blocks.#.attn.k.*"),
            ("transformer.encoder.layer.#.attn.value.*", "blocks.#.attn.v.*"),
            ("transformer.encoder.layer.#.attn.out.*", "blocks.#.attn.proj.*"),
            ("transformer.encoder.layer.#.ffn.*", "blocks.#.mlp.*"),
            ("transformer.encoder.encoder_norm.*", "norm.*"),
        ],
    },
    // timm from 0.9 on: what merges patches opens a stage instead of closing the one before.
    Scheme {
        family: Family::Swin,
        mark: "layers.3.downsample.reduction.weight",
        rules: &[
            ("layers.1.downsample.*", "layers.0.downsample.*"),
            ("layers.2.downsample.*", "layers.1.downsample.*"),
            ("layers.3.downsample.*", "layers.2.downsample.*"),
        ],
    },
    // The official code.
    Scheme { family: Family::Swin, mark: "layers.0.blocks.0.attn.relative_position_bias_table", rules: &[] },
    // transformers.
    Scheme {
        family: Family::Swin,
        mark: "encoder.layers.0.blocks.0.attention.self.relative_position_bias_table",
        rules: &[
            ("embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
            ("embeddings.norm.*", "patch_embed.norm.*"),
            ("encoder.layers.#.blocks.#.layernorm_before.*", "layers.#.blocks.#.norm1.*"),
            ("encoder.layers.#.blocks.#.layernorm_after.*", "layers.#.blocks.#.norm2.*"),
            ("encoder.layers.#.blocks.#.attention.self.query.*", "layers.#.blocks.#.attn.q.*"),
            ("encoder.layers.#.blocks.#.attention.self.key.*", "layers.#.blocks.#.attn.k.*"),
            ("encoder.layers.#.blocks.#.attention.self.value.*", "layers.#.blocks.#.attn.v.*"),
            ("encoder.layers.#.blocks.#.attention.self.*", "layers.#.blocks.#.attn.*"),
            ("encoder.layers.#.blocks.#.attention.output.dense.*", "layers.#.blocks.#.attn.proj.*"),
            ("encoder.layers.#.blocks.#.intermediate.dense.*", "layers.#.blocks.#.mlp.fc1.*"),
            ("encoder.layers.#.blocks.#.output.dense.*", "layers.#.blocks.#.mlp.fc2.*"),
            ("encoder.layers.#.downsample.*", "layers.#.downsample.*"),
            ("layernorm.*", "norm.*"),
        ],
    },
    // torchvision, timm, MoCo.
    Scheme { family: Family::Resnet, mark: "layer1.0.conv1.weight", rules: &[] },
    // transformers.
    Scheme {
        family: Family::Resnet,
        mark: "encoder.stages.0.layers.0.layer.0.convolution.weight",
        rules: &[
            ("embedder.embedder.convolution.*", "conv1.*"),
            ("embedder.embedder.normalization.*", "bn1.*"),
            ("encoder.stages.0.layers.#.*", "layer1.#.*"),
            ("encoder.stages.1.layers.#.*", "layer2.#.*"),
            ("encoder.stages.2.layers.#.*", "layer3.#.*"),
            ("encoder.stages.3.layers.#.*", "layer4.#.*"),
        ],
    },
    // The official code.
    Scheme { family: Family::Convnext, mark: "stages.0.0.dwconv.weight", rules: &[] },
    // timm.
    Scheme {
        family: Family::Convnext,
        mark: "stages.0.blocks.0.conv_dw.weight",
        rules: &[
            ("stem.*", "downsample_layers.0.*"),
            ("stages.#.downsample.*", "downsample_layers.#.*"),
            ("stages.#.blocks.#.gamma", "stages.#.#.gamma"),
            ("stages.#.blocks.#.conv_dw.*", "stages.#.#.dwconv.*"),
            ("stages.#.blocks.#.norm.*", "stages.#.#.norm.*"),
            ("stages.#.blocks.#.mlp.fc1.*", "stages.#.#.pwconv1.*"),
            ("stages.#.blocks.#.mlp.fc2.*", "stages.#.#.pwconv2.*"),
            ("head.norm.*", "norm.*"),
        ],
    },
    // torchvision: stages are features 1, 3, 5 and 7, what halves the map lies between them.
    Scheme {
        family: Family::Convnext,
        mark: "features.1.0.layer_scale",
        rules: &[
            ("features.0.*", "downsample_layers.0.*"),
            ("features.2.*", "downsample_layers.1.*"),
            ("features.4.*", "downsample_layers.2.*"),
            ("features.6.*", "downsample_layers.3.*"),
            ("features.1.#.*", "stages.0.#.*"),
            ("features.3.#.*", "stages.1.#.*"),
            ("features.5.#.*", "stages.2.#.*"),
            ("features.7.#.*", "stages.3.#.*"),
            ("classifier.0.*", "norm.*"),
        ],
    },
    // transformers.
    Scheme {
        family: Family::Convnext,
        mark: "encoder.stages.0.layers.0.dwconv.weight",
        rules: &[
            ("embeddings.patch_embeddings.*", "downsample_layers.0.0.*"),
            ("embeddings.layernorm.*", "downsample_layers.0.1.*"),
            ("encoder.stages.#.downsampling_layer.*", "downsample_layers.#.*"),
            ("encoder.stages.#.layers.#.layernorm.*", "stages.#.#.norm.*"),
            ("encoder.stages.#.layers.#.layer_scale_parameter", "stages.#.#.gamma"),
            ("encoder.stages.#.layers.#.*", "stages.#.#.*"),
            ("layernorm.*", "norm.*"),
        ],
    },
];

/// Rules for what the rules of a scheme have left within a block.
const WITHIN: &[(&str, &str)] = &[
    // torchvision's ConvNeXt
    ("stages.#.#.block.0.*", "stages.#.#.dwconv.*"),
    ("stages.#.#.block.2.*", "stages.#.#.norm.*"),
    ("stages.#.#.block.3.*", "stages.#.#.pwconv1.*"),
    ("stages.#.#.block.5.*", "stages.#.#.pwconv2.*"),
    ("stages.#.#.layer_scale", "stages.#.#.gamma"),
];

/// Names of a layer of transformers' ResNet, whose convolutions are counted from 0 and ours from 1.
const RESNET_LAYERS: &[(&str, &str)] = &[
    ("shortcut.convolution.", "downsample.0."),
    ("shortcut.normalization.", "downsample.1."),
    ("layer.0.convolution.", "conv1."),
    ("layer.0.normalization.", "bn1."),
    ("layer.1.convolution.", "conv2."),
    ("layer.1.normalization.", "bn2."),
    ("layer.2.convolution.", "conv3."),
    ("layer.2.normalization.", "bn3."),
];

/// A scheme found in a checkpoint.
pub(super) struct Found {
    pub(super) family: Family,
    prefix: &'static str,
    rules: &'static [(&'static str, &'static str)],
}

/// The scheme of a checkpoint with these names, if it is one that we know.
pub(super) fn find(names: &BTreeSet<&str>) -> Option<Found> {
    PREFIXES.iter().find_map(|prefix| {
        let scheme = SCHEMES.iter().find(|s| names.contains(format!("{prefix}{}", s.mark).as_str()))?;
        Some(Found { family: scheme.family, prefix, rules: scheme.rules })
    })
}

impl Found {
    /// Our name for a tensor; `None` if it is no part of the backbone.
    pub(super) fn rename(&self, name: &str) -> Option<String> {
        let name = name.strip_prefix(self.prefix)?;
        let renamed = first(self.rules, name);
        let name = renamed.as_deref().unwrap_or(name);
        let is_buffer = name.rsplit('.').next().is_some_and(|last| BUFFERS.contains(&last));
        if is_buffer || LEFT_ASIDE.iter().any(|pattern| apply(pattern, "", name).is_some()) {
            return None;
        }
        if self.family == Family::Resnet
            && let Some((from, to)) = RESNET_LAYERS.iter().find(|(from, _)| name.contains(from))
        {
            return Some(name.replace(from, to));
        }
        Some(first(WITHIN, name).unwrap_or_else(|| name.to_owned()))
    }
}

fn first(rules: &[(&str, &str)], name: &str) -> Option<String> {
    rules.iter().find_map(|(pattern, target)| apply(pattern, target, name))
}

/// `target` with what `#` and `*` stood for in `pattern`, if `name` is of that form.
fn apply(pattern: &str, target: &str, name: &str) -> Option<String> {
    let (mut numbers, mut rest) = (Vec::new(), None);
    let mut parts = name.split('.');
    for form in pattern.split('.') {
        match form {
            "*" => {
                let left: Vec<&str> = parts.by_ref().collect();
                rest = Some(left.join(".")).filter(|left| !left.is_empty());
                rest.as_ref()?;
            }
            "#" => numbers.push(parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_digit()))?),
            _ => parts.next().filter(|part| *part == form).map(drop)?,
        }
    }
    if parts.next().is_some() {
        return None;
    }
    let mut numbers = numbers.into_iter();
    let filled = target.split('.').map(|form| match form {
        "#" => numbers.next().unwrap_or_default().to_owned(),
        "*" => rest.clone().unwrap_or_default(),
        literal => literal.to_owned(),
    });
    Some(filled.collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_rests_are_carried_over() {
        let rule = |name| apply("encoder.layer.#.norm1.*", "blocks.#.n.*", name);
        assert_eq!(rule("encoder.layer.12.norm1.weight").as_deref(), Some("blocks.12.n.weight"));
        assert_eq!(rule("encoder.layer.x.norm1.weight"), None);
        assert_eq!(rule("encoder.layer.1.norm1"), None);
        assert_eq!(rule("encoder.layer.1.norm2.weight"), None);
        assert_eq!(apply("a.b", "c", "a.b.d"), None);
    }

    #[test]
    fn encoders_are_found_within_larger_models() {
        let moco = ["module.base_encoder.blocks.0.attn.qkv.weight", "module.predictor.0.weight"];
        let found = find(&BTreeSet::from(moco)).unwrap();
        assert_eq!(found.family, Family::Vit);
        assert_eq!(found.rename(moco[0]).as_deref(), Some("blocks.0.attn.qkv.weight"));
        assert_eq!(found.rename(moco[1]), None);
        assert!(find(&BTreeSet::from(["conv.weight"])).is_none());
    }

    #[test]
    fn heads_decoders_and_buffers_are_left_aside() {
        let found = find(&BTreeSet::from(["blocks.0.attn.qkv.weight"])).unwrap();
        for name in ["head.weight", "decoder_blocks.3.norm1.bias", "mask_token", "pre_logits.fc.bias"] {
            assert_eq!(found.rename(name), None, "{name}");
        }
        assert_eq!(found.rename("blocks.1.x").as_deref(), Some("blocks.1.x"));
        let swin = find(&BTreeSet::from(["layers.0.blocks.0.attn.relative_position_bias_table"])).unwrap();
        assert_eq!(swin.rename("layers.0.blocks.1.attn_mask"), None);
        assert_eq!(swin.rename("layers.0.blocks.1.attn.relative_position_index"), None);
    }
}
