//! Importances of a few numbers, and what is cut by them.

use sweeps::recipe::{Rewind, RewindLr};

use super::*;

fn how(importance: Importance, scope: Scope) -> Pruning {
    Pruning {
        tokens: 0.5,
        segments: 0.5,
        scope,
        importance,
        prune_at: 1,
        to: Rewind::Fresh,
        epochs: 1,
        lr: RewindLr::Restart,
    }
}

/// Two blocks, two tokens, four dimensions in two segments.
fn batch() -> (Tensor, Tensor) {
    let p = Tensor::from_slice(&[1f32, 2., 3., 4., 1., 1., 1., 1., 1., 0., 1., 0., -2., 0., 0., 5.]);
    let g = Tensor::from_slice(&[1f32, -1., 1., -1., 1., 2., 3., -4., -1., 7., 1., 7., 1., 1., 1., 1.]);
    (p.reshape([2, 2, 4]), g.reshape([2, 2, 4]))
}

fn importances(importance: Importance, scope: Scope) -> Importances {
    let mut mean = Mean::default();
    let (p, g) = batch();
    mean.add(&how(importance, scope), Some(2), &p, &g);
    mean.add(&how(importance, scope), Some(2), &p, &(-&g));
    mean.finish().unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.reshape([-1])).unwrap()
}

#[test]
fn each_importance_sums_as_it_says() {
    // p·g: block 0: [1, −2, 3, −4], [1, 2, 3, −4]; block 1: [−1, 0, 1, 0], [−2, 0, 0, 5].
    let abs = importances(Importance::Abs, Scope::Tokens);
    assert_eq!(numbers(&abs.tokens), [2., 5.]);
    // Segment 0 owns dimensions 0 and 2, segment 1 owns 1 and 3.
    assert_eq!(numbers(abs.segments.as_ref().unwrap()), [4., 6., 2., 3.]);
    assert_eq!(numbers(&importances(Importance::Abs, Scope::Global).tokens), [2., 2., 0., 3.]);
    // The two batches cancel where signs count.
    assert_eq!(numbers(&importances(Importance::Signed, Scope::Tokens).tokens), [0., 0.]);
    assert_eq!(numbers(&importances(Importance::Taylor, Scope::Tokens).tokens), [12., 17.]);
}

#[test]
fn the_least_important_go() {
    let tokens =
        |scope, blocks| keep(&importances(Importance::Abs, scope), &how(Importance::Abs, scope), blocks);
    let kept = tokens(Scope::Tokens, 2);
    assert_eq!(kept.tokens, [[1]]);
    assert_eq!(numbers(&kept.segments.unwrap().to_kind(Kind::Double)), [0., 1., 0., 1.]);
    // Of [[2, 2], [0, 3]] the two least are (1, 0) and, of equals, the first: (0, 0).
    assert_eq!(tokens(Scope::Global, 2).tokens, [[1], [1]]);
    let none = Pruning { tokens: 0.0, segments: 0.0, ..how(Importance::Abs, Scope::Tokens) };
    let kept = keep(&importances(Importance::Abs, Scope::Tokens), &none, 2);
    assert!(kept.tokens.is_empty() && kept.segments.is_none());
}

#[test]
fn cutting_takes_rows_out_block_by_block() {
    let prompt = batch().0.unsqueeze(0);
    let cut = |tokens: Vec<Vec<i64>>| super::cut(&prompt, &Kept { tokens, segments: None });
    assert_eq!(cut(vec![vec![1]]).size(), [1, 2, 1, 4]);
    assert!(cut(vec![vec![1]]).equal(&prompt.narrow(2, 1, 1)));
    let uneven = cut(vec![vec![0, 1], vec![1]]);
    assert_eq!(uneven.size(), [1, 3, 4]);
    assert!(uneven.select(1, 2).equal(&prompt.select(1, 1).select(1, 1)));
    assert!(cut(vec![]).equal(&prompt));
}

#[test]
fn what_was_pruned_reads_back() {
    for tokens in [vec![], vec![vec![0, 2]], vec![vec![1], vec![], vec![0, 1]]] {
        let importances = importances(Importance::Abs, Scope::Tokens);
        let segments = Some(Tensor::ones([2, 2], (Kind::Float, Device::Cpu)));
        let pruned = Pruned { kept: Kept { tokens: tokens.clone(), segments }, importances };
        let read = Pruned::read(&pruned.tensors()).unwrap();
        assert_eq!(read.kept.tokens, tokens);
        assert!(read.kept.segments.is_some() && read.importances.tokens.equal(&pruned.importances.tokens));
    }
    assert!(Pruned::read(&BTreeMap::new()).is_none());
}

#[test]
fn a_report_names_scores_and_what_stays() {
    let report = |scope, tokens: Vec<Vec<i64>>| {
        let segments = Some(Tensor::from_slice(&[0f32, 1., 1., 1.]).reshape([2, 2]));
        let pruned =
            Pruned { kept: Kept { tokens, segments }, importances: importances(Importance::Abs, scope) };
        serde_json::from_str::<serde_json::Value>(&pruned.report(3)).unwrap()
    };
    let shared = json!({"first": 3, "tokens": [[2.0, 5.0]], "kept": [[1]], "segments": [[4.0, 6.0], [2.0, 3.0]],
        "kept_segments": [[1], [0, 1]]});
    assert_eq!(report(Scope::Tokens, vec![vec![1]]), shared);
    let apart = report(Scope::Global, vec![vec![], vec![0, 1]]);
    assert_eq!((&apart["tokens"], &apart["kept"]), (&json!([[2.0, 2.0], [0.0, 3.0]]), &json!([[], [0, 1]])));
    assert_eq!(report(Scope::Tokens, vec![])["kept"], json!([[0, 1]]));
}

/// What the golden vectors say of gradients at masks holds for p·g, which needs no masks.
#[test]
fn the_gradient_at_a_mask_is_the_sum_of_p_and_g() {
    use sweeps::recipe::{E2vpt, Fidelity, HeadInit, KvBlocks, KvPosition, Method};

    use crate::backbone::tiny;
    use crate::trainer::{Ensemble, Member, Rule, Setup};

    let e2vpt = E2vpt {
        prompt_length: 3,
        prompt_dropout: 0.0,
        kv_prompt_length: 2,
        kv_share: true,
        kv_position: KvPosition::Before,
        kv_blocks: KvBlocks::All,
        segments: 4,
        fidelity: Fidelity::Paper,
    };
    let (vit, method) = (tiny::backbone(tiny::arch(), Kind::Double), Method::E2vpt(e2vpt));
    let members = [Member { seed: 3, wd: 0.0, wd_head: 0.0, momentum: 0.0 }];
    let (head, rule) = (HeadInit::Vpt, Rule::Sgd);
    let setup = Setup {
        method: &method,
        head,
        setr: None,
        classes: 3,
        image_size: 12,
        rule,
        members: &members,
        kept: None,
    };
    let mut ensemble = Ensemble::new(&vit, &setup);
    let (images, labels) = tiny::batch(12, 5, 3, Kind::Double);
    let masks: Vec<Tensor> =
        ensemble.masks().into_iter().map(|mask| mask.value.set_requires_grad(true)).collect();
    ensemble.backward(&vit, vit.embed(&images), &labels.unsqueeze(0));
    let prompt = ensemble.params().iter().find(|param| param.name == "prompt").unwrap();
    let (p, g) = (prompt.value.get(0), prompt.value.grad().get(0));
    let how = how(Importance::Signed, Scope::Tokens);
    let mut mean = Mean::default();
    mean.add(&how, Some(4), &p, &g);
    let found = mean.finish().unwrap();
    for (found, mask) in [(found.tokens, &masks[0]), (found.segments.unwrap(), &masks[1])] {
        let wanted = mask.grad().get(0);
        let off = (&found - &wanted).abs().max().double_value(&[]) / wanted.abs().max().double_value(&[]);
        assert!(found.size() == wanted.size() && off < 1e-9, "{off}");
    }
    // A norm follows, so that a token's length does not count: its terms cancel, their sizes do not.
    let mut taylor = Mean::default();
    taylor.add(&Pruning { importance: Importance::Taylor, ..how }, None, &p, &g);
    let smallest = taylor.finish().unwrap().tokens.min().double_value(&[]);
    let largest = masks[0].grad().abs().max().double_value(&[]);
    assert!(smallest > 10.0 * largest, "{smallest} against {largest}");
}
