//! Adapters: what they compute, what their gradients are, and that the frozen base has none.

use candle_core::{DType, Device, Tensor, Var};
use model::{Decoder, LoraSettings, RaggedEngine, Tensors};

use crate::chunks::{inputs, scoring, weights};
use crate::tiny;

const TARGETS: [&str; 3] = ["q_proj", "v_proj", "down_proj"];

fn settings() -> LoraSettings {
    LoraSettings { rank: 2, alpha: 3.0, targets: TARGETS.map(str::to_owned).to_vec() }
}

/// Adapters as after some training: B is no longer zero.
fn adapters(kind: tiny::Kind) -> Tensors {
    let start = settings().start(&tiny::config(kind), 5).unwrap();
    let moved = |(index, (name, tensor)): (usize, (String, Tensor))| {
        let n = tensor.elem_count();
        let values: Vec<f64> =
            tiny::numbers(300 + index as u64, n).iter().map(|x| 0.5 * x).collect();
        (name, Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap())
    };
    start.into_iter().enumerate().map(moved).collect()
}

fn loss(decoder: &Decoder) -> Tensor {
    let (tokens, select, targets) = inputs();
    let scoring = scoring(0.8, &[3, 7], 4);
    let own = decoder.logprobs(&tokens, &select, &targets, &scoring).unwrap();
    own.mul(&weights(own.elem_count(), DType::F64)).unwrap().sum_all().unwrap()
}

#[test]
fn adapters_get_the_gradient_of_finite_differences_and_the_base_none() {
    for kind in [tiny::KINDS[2], tiny::KINDS[3], tiny::KINDS[4]] {
        let base = tiny::decoder(kind, DType::F64);
        let start = adapters(kind);
        let with = |adapters: Tensors| base.with_adapters(adapters, &settings()).unwrap();
        let vars: Vec<(String, Var)> =
            start.iter().map(|(n, t)| (n.clone(), Var::from_tensor(t).unwrap())).collect();
        let tracked = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
        let grads = loss(&with(tracked)).backward().unwrap();
        for (name, tensor) in base.tensors() {
            assert!(grads.get(tensor).is_none(), "{kind:?}: {name} costs a gradient");
        }
        for (seed, (name, var)) in vars.iter().enumerate() {
            let grad: Vec<f64> = grads.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let direction = tiny::numbers(1000 + seed as u64, grad.len());
            let analytic: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
            assert!(analytic.abs() > 1e-7, "{kind:?} {name}: {analytic}");
            let direction = Tensor::from_vec(direction, var.shape(), &Device::Cpu).unwrap();
            let at = |step: f64| {
                let mut moved = start.clone();
                let there = (&start[name] + direction.affine(step, 0.0).unwrap()).unwrap();
                moved.insert(name.clone(), there);
                loss(&with(moved)).to_scalar::<f64>().unwrap()
            };
            let h = 2e-4;
            let central = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            let off = (analytic - central).abs() / analytic.abs();
            assert!(off < 1e-5, "{kind:?} {name}: {analytic} against {central}");
        }
    }
}

#[test]
fn merged_weights_compute_the_same_and_the_rest_is_shared() {
    let kind = tiny::KINDS[3];
    let base = tiny::decoder(kind, DType::F64);
    let adapted = base.with_adapters(adapters(kind), &settings()).unwrap();
    let text = tiny::ids(7, 12);
    let expected = tiny::train_logits(&adapted, &text);
    assert!(tiny::distance(&expected, &tiny::train_logits(&base, &text)) > 1e-2);
    let merged = Decoder::new(tiny::config(kind), adapted.merged().unwrap()).unwrap();
    assert!(tiny::distance(&tiny::train_logits(&merged, &text), &expected) < 1e-12);
    for (name, tensor) in merged.tensors() {
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        let changed = TARGETS.iter().any(|target| stem.ends_with(target));
        assert_eq!(tensor.id() != base.tensors()[name].id(), changed, "{name}");
    }
    // Decoding has them merged as well.
    let mut engine = RaggedEngine::new(adapted.clone(), 1, 16).unwrap();
    assert!(tiny::distance(&tiny::feed(&mut engine, 0, &text), &expected) < 1e-9);
    let alone = adapted.without_adapters();
    let alone = tiny::train_logits(&alone, &text);
    assert_eq!(alone, tiny::train_logits(&base, &text));
}

#[test]
fn adapters_start_from_the_seed_and_change_nothing() {
    let config = tiny::config(tiny::KINDS[3]);
    let start = settings().start(&config, 5).unwrap();
    assert_eq!(start.len(), 2 * 3 * config.layers);
    let numbers = |name: &str| start[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let a = numbers("model.layers.1.mlp.down_proj.lora_A.weight");
    // Uniform within ±1/√20: the variance is 1/60.
    assert_eq!(start["model.layers.1.mlp.down_proj.lora_A.weight"].dims(), [2, 20]);
    let bound = 20f32.powf(-0.5);
    assert!(a.iter().all(|x| x.abs() < bound) && a.iter().any(|x| x.abs() > 0.8 * bound));
    let variance = a.iter().map(|x| x * x).sum::<f32>() / 40.0;
    assert!((variance * 60.0 - 1.0).abs() < 0.4, "{variance}");
    assert!(numbers("model.layers.1.mlp.down_proj.lora_B.weight").iter().all(|x| *x == 0.0));
    let same = settings().start(&config, 5).unwrap();
    let other = settings().start(&config, 6).unwrap();
    let bits = |of: &Tensors| of["model.layers.0.self_attn.q_proj.lora_A.weight"].to_vec2::<f32>();
    assert_eq!(bits(&start).unwrap(), bits(&same).unwrap());
    assert_ne!(bits(&start).unwrap(), bits(&other).unwrap());
    let base = tiny::decoder(tiny::KINDS[3], DType::F32);
    let adapted = base.with_adapters(start, &settings()).unwrap();
    let text = tiny::ids(7, 12);
    assert_eq!(tiny::train_logits(&adapted, &text), tiny::train_logits(&base, &text));
}

#[test]
fn foreign_targets_and_adapters_are_named() {
    let config = tiny::config(tiny::KINDS[3]);
    let wrong = LoraSettings { targets: vec!["q_proj".into(), "qkv".into()], ..settings() };
    let error = wrong.start(&config, 1).unwrap_err().to_string();
    assert!(error.contains("no linear layer of the model is called \"qkv\""), "{error}");
    let mut adapters = adapters(tiny::KINDS[3]);
    adapters.remove("model.layers.0.self_attn.q_proj.lora_B.weight").unwrap();
    let base = tiny::decoder(tiny::KINDS[3], DType::F64);
    let error = base.with_adapters(adapters, &settings()).unwrap_err().to_string();
    assert_eq!(error, "1 of 17 adapter tensors fit no layer of the model");
}
