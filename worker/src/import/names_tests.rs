//! Whole tiny checkpoints under foreign names come in as the backbone they are.
//!
//! The foreign names are made here from ours by hand, independently of the rules that read them.

use std::collections::BTreeMap;
use std::fs;

use safetensors::SafeTensors;

use super::backbone::{self, BackboneWish, normalisation, serialise};
use crate::backbone::{Arch, TensorShape, tiny};
use crate::convnet::{convnext, resnet};
use crate::home::Home;
use crate::swin;
use crate::vit::{self, Pool};

type Values = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Every tensor of an arch, each number another.
fn canonical(arch: &Arch) -> Values {
    let mut next = 0f32;
    let mut fill = |TensorShape { name, shape }: TensorShape| {
        let values = (0..shape.iter().product()).map(|_| {
            next += 1.0;
            next
        });
        (name, (shape.clone(), values.collect()))
    };
    arch.tensors().into_iter().map(&mut fill).collect()
}

/// A third of the rows of each `attn.qkv`, under the name of its part.
fn split_projections(tensors: Values) -> Values {
    let mut out = Values::new();
    for (name, (shape, values)) in tensors {
        if !name.contains(".attn.qkv.") {
            out.insert(name, (shape, values));
            continue;
        }
        let part = values.len() / 3;
        let shape: Vec<usize> = std::iter::once(shape[0] / 3).chain(shape[1..].iter().copied()).collect();
        for (k, letter) in ["q", "k", "v"].into_iter().enumerate() {
            let values = values[k * part..(k + 1) * part].to_vec();
            out.insert(name.replace(".attn.qkv.", &format!(".attn.{letter}.")), (shape.clone(), values));
        }
    }
    out
}

/// Each name with all replacements made, in their order, behind a prefix.
fn renamed(tensors: Values, prefix: &str, replacements: &[(&str, &str)]) -> Values {
    let rename = |name: String| replacements.iter().fold(name, |name, (from, to)| name.replace(from, to));
    tensors.into_iter().map(|(name, value)| (format!("{prefix}{}", rename(name)), value)).collect()
}

fn wish() -> BackboneWish {
    BackboneWish {
        name: "b".into(),
        heads: None,
        pool: None,
        eps: None,
        image_size: None,
        position_resize: None,
        normalisation: normalisation("imagenet").unwrap(),
        source: None,
    }
}

fn import(tensors: &Values, wish: &BackboneWish) -> Result<(Arch, Values), String> {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("checkpoint.safetensors");
    fs::write(&file, serialise(tensors.clone()).unwrap()).unwrap();
    let home = Home::open(root.path().join("home")).unwrap();
    let entry = backbone::backbone(&home, &file, wish).map_err(|error| error.to_string())?;
    let bytes = fs::read(&entry.path).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    // A head may stay in a file that needs no other change.
    let values = stored.iter().filter(|(name, _)| !name.starts_with("head.")).map(|(name, view)| {
        let numbers = view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        (name.to_owned(), (view.shape().to_vec(), numbers.collect()))
    });
    Ok((entry.sidecar.arch, values.collect()))
}

#[track_caller]
fn comes_in_as(foreign: &Values, arch: &Arch, wish: &BackboneWish) {
    let (found, values) = import(foreign, wish).unwrap();
    assert_eq!(&found, arch);
    assert!(values == canonical(arch), "the values are not those of the backbone");
}

fn with(mut tensors: Values, further: &[(&str, &[usize])]) -> Values {
    for (name, shape) in further {
        tensors.insert((*name).to_owned(), (shape.to_vec(), vec![0.5; shape.iter().product()]));
    }
    tensors
}

fn vit() -> vit::Arch {
    vit::Arch { heads: 1, layer_scale: false, ..tiny::arch() }
}

const HF_VIT: &[(&str, &str)] = &[
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    ("blocks.", "encoder.layer."),
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attn.q.", "attention.attention.query."),
    ("attn.k.", "attention.attention.key."),
    ("attn.v.", "attention.attention.value."),
    ("attn.proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
];

#[test]
fn vits_of_timm_mae_moco_and_transformers() {
    let arch = Arch::from(vit());
    let ours = || canonical(&arch);
    comes_in_as(&with(ours(), &[("head.weight", &[3, 12])]), &arch, &wish());
    let mae: &[(&str, &[usize])] =
        &[("decoder_blocks.0.norm1.weight", &[4]), ("mask_token", &[1, 1, 4]), ("decoder_pos_embed", &[1])];
    comes_in_as(&with(ours(), mae), &arch, &wish());
    let moco: &[(&str, &[usize])] = &[
        ("module.base_encoder.head.0.weight", &[4]),
        ("module.momentum_encoder.blocks.0.norm1.weight", &[12]),
        ("module.predictor.0.weight", &[4]),
    ];
    comes_in_as(&with(renamed(ours(), "module.base_encoder.", &[]), moco), &arch, &wish());
    comes_in_as(&with(renamed(ours(), "module.", &[]), &[("module.head.weight", &[2])]), &arch, &wish());

    // `norm` last: the layer norms of the blocks are renamed before it.
    let hf = [HF_VIT, &[("norm.", "layernorm.")]].concat();
    let hf = renamed(split_projections(ours()), "", &hf);
    comes_in_as(&with(hf.clone(), &[("pooler.dense.weight", &[4])]), &arch, &wish());
    let inner = renamed(hf, "vit.", &[]);
    comes_in_as(&with(inner, &[("classifier.weight", &[3, 12]), ("decoder.mask", &[1])]), &arch, &wish());

    let vpt = [
        ("cls_token", "transformer.embeddings.cls_token"),
        ("pos_embed", "transformer.embeddings.position_embeddings"),
        ("patch_embed.proj", "transformer.embeddings.patch_embeddings"),
        ("norm1", "attention_norm"),
        ("norm2", "ffn_norm"),
        ("attn.q.", "attn.query."),
        ("attn.k.", "attn.key."),
        ("attn.v.", "attn.value."),
        ("attn.proj", "attn.out"),
        ("mlp.", "ffn."),
        ("blocks.", "transformer.encoder.layer."),
    ];
    let vpt: Values = renamed(split_projections(ours()), "", &vpt)
        .into_iter()
        .map(|(name, v)| {
            (
                name.replacen(
                    "norm.",
                    "transformer.encoder.encoder_norm.",
                    usize::from(name.starts_with("norm.")),
                ),
                v,
            )
        })
        .collect();
    comes_in_as(&vpt, &arch, &wish());
}

#[test]
fn dinov2_of_transformers_keeps_its_layer_scale() {
    let arch = Arch::from(vit::Arch { layer_scale: true, ..vit() });
    let names = [
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("blocks.", "encoder.layer."),
        ("attn.q.", "attention.attention.query."),
        ("attn.k.", "attention.attention.key."),
        ("attn.v.", "attention.attention.value."),
        ("attn.proj", "attention.output.dense"),
        ("ls1.gamma", "layer_scale1.lambda1"),
        ("ls2.gamma", "layer_scale2.lambda1"),
        ("norm.", "layernorm."),
    ];
    let foreign = renamed(split_projections(canonical(&arch)), "", &names);
    comes_in_as(&with(foreign, &[("embeddings.mask_token", &[1, 12])]), &arch, &wish());
}

#[test]
fn pooling_decides_which_norm_is_kept() {
    let pooled = |pool| BackboneWish { pool: Some(pool), ..wish() };
    let arch = |pool| Arch::from(vit::Arch { pool, ..vit() });
    let file = canonical(&arch(Pool::Cls));
    comes_in_as(&file, &arch(Pool::MeanNorm), &pooled(Pool::MeanNorm));
    // MAE's pretraining has no `fc_norm`: it starts as the identity.
    let (found, values) = import(&file, &pooled(Pool::MeanFcNorm)).unwrap();
    assert_eq!(found, arch(Pool::MeanFcNorm));
    assert_eq!(values["fc_norm.weight"], (vec![12], vec![1.0; 12]));
    assert_eq!(values["fc_norm.bias"], (vec![12], vec![0.0; 12]));
    assert!(!values.contains_key("norm.weight"));
    // A fine-tuned one has it.
    let tuned = with(file.clone(), &[("fc_norm.weight", &[12]), ("fc_norm.bias", &[12])]);
    assert_eq!(import(&tuned, &pooled(Pool::MeanFcNorm)).unwrap().1["fc_norm.weight"].1, vec![0.5; 12]);
    comes_in_as(&tuned, &arch(Pool::Cls), &wish());
    let only: Values = tuned.into_iter().filter(|(name, _)| !name.starts_with("norm.")).collect();
    let error = import(&only, &wish()).unwrap_err();
    assert!(error.contains("missing: `norm.weight`, `norm.bias`"), "{error}");
}

#[test]
fn swins_of_the_authors_timm_and_transformers() {
    let swin = swin::Arch { image_size: 16, ..tiny::swin() };
    let (arch, wish) = (Arch::from(swin.clone()), BackboneWish { image_size: Some(16), ..wish() });
    let buffers: &[(&str, &[usize])] = &[
        ("layers.0.blocks.1.attn_mask", &[4]),
        ("layers.0.blocks.0.attn.relative_position_index", &[4]),
        ("head.bias", &[3]),
    ];
    comes_in_as(&with(canonical(&arch), buffers), &arch, &wish);
    let hf = [
        ("patch_embed.proj", "swin.embeddings.patch_embeddings.projection"),
        ("patch_embed.norm", "swin.embeddings.norm"),
        ("layers.", "swin.encoder.layers."),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.q.", "attention.self.query."),
        ("attn.k.", "attention.self.key."),
        ("attn.v.", "attention.self.value."),
        ("attn.relative", "attention.self.relative"),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ];
    let hf: Values = renamed(split_projections(canonical(&arch)), "", &hf)
        .into_iter()
        .map(|(name, v)| (if name.starts_with("norm.") { format!("swin.layer{name}") } else { name }, v))
        .collect();
    comes_in_as(&hf, &arch, &wish);

    // timm's newer models have four stages, and merge at the start of the last three.
    let stages = [1, 1, 2, 1].map(|depth| swin::Stage { depth, heads: 1, mlp_dim: 4 }).to_vec();
    let arch = Arch::from(swin::Arch { image_size: 32, stages, ..swin });
    let wish = BackboneWish { image_size: Some(32), ..wish };
    let shifted = [
        ("layers.2.downsample", "layers.3.downsample"),
        ("layers.1.downsample", "layers.2.downsample"),
        ("layers.0.downsample", "layers.1.downsample"),
    ];
    comes_in_as(&renamed(canonical(&arch), "", &shifted), &arch, &wish);
}

#[test]
fn resnets_of_torchvision_moco_and_transformers() {
    for block in [resnet::BlockKind::Basic, resnet::BlockKind::Bottleneck] {
        let arch = Arch::from(tiny::resnet(block));
        let further: &[(&str, &[usize])] = &[("fc.weight", &[3, 5]), ("bn1.num_batches_tracked", &[])];
        comes_in_as(&with(canonical(&arch), further), &arch, &wish());
        comes_in_as(&renamed(canonical(&arch), "module.encoder_q.", &[]), &arch, &wish());
        let hf = [
            ("layer1.", "encoder.stages.0.layers."),
            ("layer2.", "encoder.stages.1.layers."),
            ("downsample.0", "shortcut.convolution"),
            ("downsample.1", "shortcut.normalization"),
        ];
        let layers = |name: String| {
            let stem =
                [("conv1.", "embedder.embedder.convolution."), ("bn1.", "embedder.embedder.normalization.")];
            if let Some((from, to)) = stem.iter().find(|(from, _)| name.starts_with(from)) {
                return name.replace(from, to);
            }
            (1..4).fold(name, |name, k| {
                name.replace(&format!(".conv{k}."), &format!(".layer.{}.convolution.", k - 1))
                    .replace(&format!(".bn{k}."), &format!(".layer.{}.normalization.", k - 1))
            })
        };
        let hf: Values =
            renamed(canonical(&arch), "", &hf).into_iter().map(|(name, v)| (layers(name), v)).collect();
        comes_in_as(&renamed(hf, "resnet.", &[]), &arch, &wish());
    }
}

#[test]
fn convnexts_of_the_authors_timm_torchvision_and_transformers() {
    let arch = Arch::from(convnext::Arch {
        stages: [1, 2, 1, 1].map(|depth| convnext::Stage { depth, dim: 3 }).to_vec(),
        layer_norm_eps: 1e-6,
    });
    comes_in_as(&with(canonical(&arch), &[("head.weight", &[2, 3])]), &arch, &wish());

    let change = |rename: &dyn Fn(&[&str]) -> String| -> Values {
        let rename = |name: &str| rename(&name.split('.').collect::<Vec<_>>());
        canonical(&arch).into_iter().map(|(name, value)| (rename(&name), value)).collect()
    };
    let timm = change(&|parts| match parts {
        ["downsample_layers", "0", rest @ ..] => format!("stem.{}", rest.join(".")),
        ["downsample_layers", s, rest @ ..] => format!("stages.{s}.downsample.{}", rest.join(".")),
        ["stages", s, j, rest @ ..] => {
            let rest = rest.join(".").replace("dwconv", "conv_dw");
            let rest = rest.replace("pwconv1", "mlp.fc1").replace("pwconv2", "mlp.fc2");
            format!("stages.{s}.blocks.{j}.{rest}")
        }
        rest => format!("head.{}", rest.join(".")),
    });
    comes_in_as(&with(timm, &[("head.fc.weight", &[2, 3])]), &arch, &wish());

    let mut torchvision = change(&|parts| {
        let number = |part: &str| part.parse::<usize>().unwrap();
        match parts {
            ["downsample_layers", s, rest @ ..] => format!("features.{}.{}", 2 * number(s), rest.join(".")),
            ["stages", s, j, rest @ ..] => {
                let rest = rest.join(".").replace("gamma", "layer_scale").replace("dwconv", "block.0");
                let rest = rest.replace("norm", "block.2").replace("pwconv1", "block.3");
                format!("features.{}.{j}.{}", 2 * number(s) + 1, rest.replace("pwconv2", "block.5"))
            }
            rest => rest.join(".").replace("norm", "classifier.0"),
        }
    });
    for (_, (shape, _)) in torchvision.iter_mut().filter(|(name, _)| name.ends_with("layer_scale")) {
        shape.extend([1, 1]);
    }
    comes_in_as(&with(torchvision, &[("classifier.2.weight", &[2, 3])]), &arch, &wish());

    let hf = change(&|parts| match parts {
        ["downsample_layers", "0", "0", rest] => format!("convnext.embeddings.patch_embeddings.{rest}"),
        ["downsample_layers", "0", "1", rest] => format!("convnext.embeddings.layernorm.{rest}"),
        ["downsample_layers", s, rest @ ..] => {
            format!("convnext.encoder.stages.{s}.downsampling_layer.{}", rest.join("."))
        }
        ["stages", s, j, rest @ ..] => {
            let rest = rest.join(".").replace("gamma", "layer_scale_parameter").replace("norm", "layernorm");
            format!("convnext.encoder.stages.{s}.layers.{j}.{rest}")
        }
        rest => format!("convnext.layer{}", rest.join(".")),
    });
    comes_in_as(&with(hf, &[("classifier.weight", &[2, 3])]), &arch, &wish());
}

#[test]
fn what_does_not_fit_is_named() {
    let arch = Arch::from(vit());
    let hf = [HF_VIT, &[("norm.", "layernorm.")]].concat();
    let mut foreign = renamed(split_projections(canonical(&arch)), "", &hf);
    foreign.remove("encoder.layer.1.attention.attention.value.bias");
    let error = import(&foreign, &wish()).unwrap_err();
    assert!(error.contains("missing: `blocks.1.attn.qkv.bias`"), "{error}");
    assert!(error.contains("unexpected: `blocks.1.attn.k.bias`, `blocks.1.attn.q.bias`"), "{error}");

    let resnet = canonical(&tiny::resnet(resnet::BlockKind::Basic).into());
    let pooled = BackboneWish { pool: Some(Pool::Cls), ..wish() };
    let error = import(&resnet, &pooled).unwrap_err();
    assert!(error.contains("--pool means nothing for a resnet backbone"), "{error}");
    let wrong_size = import(&canonical(&tiny::swin().into()), &wish()).unwrap();
    assert_eq!(wrong_size.0, swin::Arch { image_size: 224, ..tiny::swin() }.into());
    let error = import(&canonical(&tiny::swin().into()), &BackboneWish { image_size: Some(18), ..wish() });
    assert!(error.unwrap_err().contains("must be a multiple of 8"));
}
