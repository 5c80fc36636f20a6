use super::super::{Family, Recipe};
use super::*;

fn read(extra: &str) -> Result<Recipe, String> {
    let json = format!(
        r#"{{"backbone": "vit_b16_mae", "task": "ade20k", "lr": 0.001, "image_size": 512, "prompt_length": 4 {extra}}}"#
    );
    Recipe::from_json(&json).map_err(|error| error.to_string())
}

fn gated(extra: &str) -> Result<Recipe, String> {
    read(&format!(r#", "method": "gated", "head": "setr_pup" {extra}"#))
}

#[test]
fn what_is_not_said_is_as_in_mmsegmentation() {
    let recipe = gated("").unwrap();
    let expected = Setr {
        channels: 256,
        lr_factor: 10.0,
        aux_blocks: None,
        aux_weight: 0.4,
        stride: 341,
        scales: Vec::new(),
        cat_max_ratio: 0.75,
        photometric: true,
    };
    assert_eq!(recipe.setr, Some(expected.clone()));
    assert_eq!((expected.aux_blocks(12), expected.aux_blocks(24)), (vec![5, 9], vec![10, 18]));
    assert_eq!(read(r#", "method": "gated""#).unwrap().setr, None);
}

#[test]
fn the_flat_form_reads_back() {
    for extra in [
        "",
        r#", "aux_blocks": [2, 7], "aux_weight": 1, "scales": [0.5, 1, 1.75], "stride": 512, "photometric": false"#,
        r#", "aux_blocks": [], "head_channels": 8, "head_lr_factor": 0.5, "cat_max_ratio": 1, "epoch_steps": 16000"#,
        r#", "schedule": {"name": "poly", "power": 0.9, "min_lr": 0.0001}, "optimizer": "adamw""#,
    ] {
        let recipe = gated(extra).unwrap();
        assert_eq!(Recipe::from_json(&recipe.to_json()).unwrap(), recipe, "{extra}");
        assert_eq!(Recipe::from_settings(&recipe.to_settings()).unwrap(), recipe, "{extra}");
        let canonical = crate::value::canonical(&recipe.to_settings()).unwrap();
        assert_eq!(recipe.to_json(), canonical, "{extra}");
    }
    let hash = |extra| gated(extra).unwrap().config_hash();
    assert_eq!(hash(""), hash(r#", "stride": null, "aux_weight": 0.4"#));
    assert_ne!(hash(""), hash(r#", "scales": [1]"#));
    assert_ne!(hash(""), hash(r#", "epoch_steps": 1"#));
}

#[test]
fn what_means_nothing_is_refused_by_name() {
    for (extra, message) in [
        (r#", "recipe": "vpt_tf""#, "recipe: is not read with `head: setr_pup`: leave it out"),
        (r#", "head_init": "zero""#, "head_init: is not read with `head: setr_pup`: leave it out"),
        (r#", "stride": 513"#, "stride: is 513, but windows are 512 pixels wide"),
        (r#", "stride": 0"#, "stride: must be an integer from 1 to 4096, found the number 0"),
        (r#", "aux_blocks": [9, 5]"#, "aux_blocks: must be a list of blocks like [5, 9]"),
        (
            r#", "aux_blocks": [5, 12]"#,
            "aux_blocks: block 12 is not there: `vit_b16_mae` has 12 blocks, 0 to 11",
        ),
        (r#", "aux_weight": 0"#, "aux_weight: must be a number > 0"),
        (
            r#", "scales": []"#,
            "scales: must be a list of up to 64 numbers from 0.1 to 8, or null, found a list",
        ),
        (r#", "scales": [0.5, 9]"#, "found the number 9"),
        (r#", "cat_max_ratio": 0"#, "cat_max_ratio: must be a number with 0 < x <= 1"),
        (r#", "schedule": {"name": "poly", "warmup_epochs": 1}"#, "unknown key of poly `warmup_epochs`"),
    ] {
        let error = gated(extra).unwrap_err();
        assert!(error.contains(message), "{extra}: {error}");
    }
    let error = read(r#", "method": "gated", "stride": 3"#).unwrap_err();
    assert_eq!(error, "stride: is read with `head: setr_pup` alone");
}

#[test]
fn methods_that_move_patches_are_refused() {
    for (method, message) in [
        (r#""vpt_shallow", "location": "pad""#, "location: `pad` adds patches"),
        (r#""vpt_deep", "insertion_depth": 1, "fidelity": "code""#, "fidelity: `code` overwrites patches"),
        (r#""vpt_deep", "pooling": "image""#, "pooling: is not read with"),
        (r#""vpt_deep", "pruning_ratio": 0.5"#, "pruning_ratio: is not read with"),
    ] {
        let error = read(&format!(r#", "head": "setr_pup", "method": {method}"#)).unwrap_err();
        assert!(error.contains(message), "{method}: {error}");
    }
    let bare = |method: &str| {
        let json =
            format!(r#"{{"backbone": "b", "task": "t", "lr": 1, "head": "setr_pup", "method": {method}}}"#);
        Recipe::from_json(&json).map_err(|error| error.to_string())
    };
    assert!(bare(r#""sidetune""#).unwrap_err().starts_with("method: `sidetune`"));
    assert!(bare(r#""mlp_k", "mlp_layers": 2"#).unwrap_err().starts_with("method: `mlp_k`"));
    let linear = bare(r#""linear""#).unwrap();
    assert!(linear.check_family(Family::Vit).is_ok());
    let error = linear.check_family(Family::Swin).unwrap_err().to_string();
    assert_eq!(error, "head: `setr_pup` stands on the patches of a ViT, and `b` is a swin backbone");
}
