//! Tiny backbones, whole and broken.

use npyz::WriterBuilder;
use npyz::npz::NpzWriter;

use super::*;
use crate::backbone::TensorShape;
use crate::vit;

fn wish() -> BackboneWish {
    BackboneWish {
        name: "tiny".into(),
        heads: Some(2),
        pool: None,
        eps: None,
        image_size: None,
        position_resize: None,
        normalisation: normalisation("inception").unwrap(),
        source: None,
    }
}

fn arch() -> vit::Arch {
    vit::Arch {
        dim: 8,
        depth: 2,
        heads: 2,
        patch_size: 2,
        image_size: 6,
        mlp_dim: 12,
        layer_norm_eps: 1e-6,
        layer_scale: true,
        pool: Pool::Cls,
        position_resize: PositionResize::Bicubic,
    }
}

fn tensors() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let filled = |t: TensorShape| (t.name, (t.shape.clone(), vec![0.5; t.shape.iter().product()]));
    arch().tensors().into_iter().map(filled).collect()
}

fn import(bytes: &[u8]) -> Result<(Home, BackboneEntry), ImportError> {
    let root = tempfile::tempdir().unwrap().keep();
    let file = root.join("weights.safetensors");
    fs::write(&file, bytes).unwrap();
    let home = Home::open(root.join("home")).unwrap();
    let entry = backbone(&home, &file, &wish());
    assert!(entry.is_ok() || home.backbones().is_empty());
    let entry = entry.inspect_err(|_| _ = fs::remove_dir_all(&root))?;
    Ok((home, entry))
}

fn problem(tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> String {
    import(&serialise(tensors).unwrap()).unwrap_err().to_string()
}

#[test]
fn the_shape_is_read_off_the_tensors() {
    let mut with_head = tensors();
    with_head.insert("head.weight".into(), (vec![3, 8], vec![0.; 24]));
    let bytes = serialise(with_head).unwrap();
    let (home, entry) = import(&bytes).unwrap();
    assert_eq!(entry.sidecar.arch, arch().into());
    assert_eq!(entry.sidecar.sha256, sha256(&bytes));
    assert_eq!(entry.sidecar.source, "weights.safetensors");
    assert_eq!(fs::read(&entry.path).unwrap(), bytes);

    // The same again is fine; something else under the name is not.
    backbone(&home, &entry.path, &wish()).unwrap();
    let other = home.root().join("other.safetensors");
    fs::write(&other, serialise(tensors()).unwrap()).unwrap();
    assert!(matches!(backbone(&home, &other, &wish()), Err(ImportError::Taken { .. })));
    // The same weights read in another way would be another backbone, too.
    let other_way = BackboneWish { eps: Some(0.5), ..wish() };
    assert!(matches!(backbone(&home, &entry.path, &other_way), Err(ImportError::Taken { .. })));
    fs::remove_dir_all(home.root().parent().unwrap()).unwrap();
}

#[test]
fn what_is_missing_too_much_or_misshapen_is_named() {
    let mut missing = tensors();
    missing.remove("blocks.1.mlp.fc2.bias");
    assert!(problem(missing).contains("missing: `blocks.1.mlp.fc2.bias`"));

    let mut more = tensors();
    more.insert("register_tokens".into(), (vec![8], vec![0.; 8]));
    assert!(problem(more).contains("unexpected: `register_tokens`"));

    let mut misshapen = tensors();
    misshapen.insert("blocks.0.attn.proj.bias".into(), (vec![9], vec![0.; 9]));
    assert!(problem(misshapen).contains("`blocks.0.attn.proj.bias` is [9], not [8]"));

    let mut no_square = tensors();
    no_square.insert("pos_embed".into(), (vec![1, 9, 8], vec![0.; 72]));
    assert!(problem(no_square).contains("not a square"));

    let mut absurd = tensors();
    absurd.insert("blocks.4294967295.x".into(), (vec![1], vec![0.]));
    assert!(problem(absurd).contains("cannot make"));

    let mut no_positions = tensors();
    no_positions.remove("pos_embed");
    assert!(problem(no_positions).contains("missing: `pos_embed`"));
    assert!(problem(BTreeMap::new()).contains("names are known"));
}

#[test]
fn a_truncated_file_is_refused() {
    let bytes = serialise(tensors()).unwrap();
    for length in [0, 4, 100, bytes.len() - 1] {
        assert!(matches!(import(&bytes[..length]), Err(ImportError::Safetensors { .. })), "{length} bytes");
    }
}

#[test]
fn heads_must_divide_and_images_must_fit() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("w.safetensors");
    fs::write(&file, serialise(tensors()).unwrap()).unwrap();
    let home = Home::open(root.path().join("home")).unwrap();
    let wished = |change: fn(&mut BackboneWish)| {
        let mut wish = wish();
        change(&mut wish);
        backbone(&home, &file, &wish)
    };
    assert!(matches!(wished(|wish| wish.heads = Some(3)), Err(ImportError::Arch(_))));
    assert!(wished(|wish| wish.image_size = Some(8)).unwrap_err().to_string().contains("6 pixels, not 8"));
    assert!(matches!(wished(|wish| wish.name = "../x".into()), Err(ImportError::Home(_))));
    let pickle = backbone(&home, &root.path().join("w.pth"), &wish()).unwrap_err().to_string();
    assert!(pickle.contains("convert_checkpoint.py"), "{pickle}");
    assert!(matches!(backbone(&home, &root.path().join("w.onnx"), &wish()), Err(ImportError::Format { .. })));
}

/// Writes what Flax would: each value says where it belongs in timm's layout.
fn flax(path: &Path, left_out: &str) {
    let (d, h, w, m) = (4usize, 2usize, 2usize, 3usize);
    let mut arrays: Vec<(String, Vec<usize>)> = vec![
        ("cls".into(), vec![1, 1, d]),
        ("Transformer/posembed_input/pos_embedding".into(), vec![1, 5, d]),
        ("embedding/kernel".into(), vec![2, 2, 3, d]),
        ("embedding/bias".into(), vec![d]),
        ("Transformer/encoder_norm/scale".into(), vec![d]),
        ("Transformer/encoder_norm/bias".into(), vec![d]),
        ("head/kernel".into(), vec![d, 7]),
    ];
    let block = "Transformer/encoderblock_0";
    for part in ["query", "key", "value"] {
        arrays.push((format!("{block}/MultiHeadDotProductAttention_1/{part}/kernel"), vec![d, h, w]));
        arrays.push((format!("{block}/MultiHeadDotProductAttention_1/{part}/bias"), vec![h, w]));
    }
    arrays.push((format!("{block}/MultiHeadDotProductAttention_1/out/kernel"), vec![h, w, d]));
    arrays.push((format!("{block}/MultiHeadDotProductAttention_1/out/bias"), vec![d]));
    for norm in ["LayerNorm_0", "LayerNorm_2"] {
        arrays.push((format!("{block}/{norm}/scale"), vec![d]));
        arrays.push((format!("{block}/{norm}/bias"), vec![d]));
    }
    arrays.push((format!("{block}/MlpBlock_3/Dense_0/kernel"), vec![d, m]));
    arrays.push((format!("{block}/MlpBlock_3/Dense_0/bias"), vec![m]));
    arrays.push((format!("{block}/MlpBlock_3/Dense_1/kernel"), vec![m, d]));
    arrays.push((format!("{block}/MlpBlock_3/Dense_1/bias"), vec![d]));

    let mut npz = NpzWriter::create(path).unwrap();
    for (k, (name, shape)) in arrays.into_iter().enumerate().filter(|(_, (name, _))| name != left_out) {
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        let mut writer = npz
            .array::<f32>(&name, Default::default())
            .unwrap()
            .default_dtype()
            .shape(&shape)
            .begin_nd()
            .unwrap();
        writer.extend((0..shape.iter().product::<u64>()).map(|i| (1000 * k) as f32 + i as f32)).unwrap();
        writer.finish().unwrap();
    }
}

#[test]
fn a_google_checkpoint_becomes_timm() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ViT.npz");
    flax(&file, "");
    let home = Home::open(root.path().join("home")).unwrap();
    let entry = backbone(&home, &file, &BackboneWish { heads: None, ..wish() }).unwrap();
    let Arch::Vit(arch) = &entry.sidecar.arch else { panic!("{:?}", entry.sidecar.arch) };
    assert_eq!((arch.heads, arch.depth, arch.patch_size, arch.image_size, arch.mlp_dim), (2, 1, 2, 4, 3));

    let bytes = fs::read(&entry.path).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<f32> {
        let view = stored.tensor(name).unwrap();
        view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    // Row r of the query's part is column r of the kernel [D, H·h], the 8th array (7000).
    assert_eq!(
        values("blocks.0.attn.qkv.weight")[..8],
        [7000., 7004., 7008., 7012., 7001., 7005., 7009., 7013.]
    );
    // The value's bias comes last: the 13th array.
    assert_eq!(values("blocks.0.attn.qkv.bias")[8..], [12000., 12001., 12002., 12003.]);
    assert_eq!(values("blocks.0.attn.proj.weight")[..5], [13000., 13004., 13008., 13012., 13001.]);
    assert_eq!(values("blocks.0.mlp.fc1.weight")[..4], [19000., 19003., 19006., 19009.]);
    // [o, i, h, w]: the next pixel is i·o = 12 further, the next channel 4.
    assert_eq!(values("patch_embed.proj.weight")[..5], [2000., 2012., 2024., 2036., 2004.]);

    flax(&file, "Transformer/encoder_norm/bias");
    let error = backbone(&home, &file, &BackboneWish { name: "other".into(), ..wish() }).unwrap_err();
    assert!(error.to_string().contains("`Transformer/encoder_norm/bias`"), "{error}");
}
