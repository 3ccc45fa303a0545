//! Every variable gets the gradient that finite differences measure.

use candle_core::{DType, Device, Tensor, Var};
use model::{Decoder, ModelConfig, Scoring, Tensors, logprobs};

use crate::chunks::inputs;
use crate::tiny;

fn loss(config: &ModelConfig, tensors: Tensors) -> Tensor {
    let (tokens, select, targets) = inputs();
    let decoder = Decoder::new(config.clone(), tensors).unwrap();
    let scoring = Scoring { temperature: 0.8, stops: config.stops.clone(), chunk_tokens: 4 };
    let own = decoder.logprobs(&tokens, &select, &targets, &scoring).unwrap();
    let weights = Tensor::new(tiny::numbers(60, own.elem_count()), &Device::Cpu).unwrap();
    own.mul(&weights).unwrap().sum_all().unwrap()
}

fn check(kind: tiny::Kind) {
    let config = tiny::config(kind);
    let start = tiny::tensors(&config, DType::F64);
    let vars: Vec<(String, Var)> =
        start.iter().map(|(n, t)| (n.clone(), Var::from_tensor(t).unwrap())).collect();
    let tracked = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    let grads = loss(&config, tracked).backward().unwrap();
    for (seed, (name, var)) in vars.iter().enumerate() {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        let grad: Vec<f64> = grad.flatten_all().unwrap().to_vec1().unwrap();
        assert!(grad.iter().all(|g| g.is_finite()), "{name}: {grad:?}");
        let direction = tiny::numbers(1000 + seed as u64, grad.len());
        let analytic: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
        assert!(analytic.abs() > 1e-6, "{name} has gradient {analytic} along the direction");
        let direction = Tensor::from_vec(direction, var.shape(), &Device::Cpu).unwrap();
        let at = |step: f64| {
            let mut moved = start.clone();
            let there = (&start[name] + direction.affine(step, 0.0).unwrap()).unwrap();
            moved.insert(name.clone(), there);
            loss(&config, moved).to_scalar::<f64>().unwrap()
        };
        // Fourth order, so that neither truncation nor rounding shows at 1e-5.
        let h = 2e-4;
        let central = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
        let relative = (analytic - central).abs() / analytic.abs();
        assert!(relative < 1e-5, "{kind:?} {name}: {analytic} against {central}");
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    tiny::KINDS.into_iter().for_each(check);
}

#[test]
fn logprobs_sum_the_stops_and_scale_by_temperature() {
    let logits =
        Tensor::new(&[[0.0f64, 1.0, 2.0, 3.0], [1.0, 0.0, 0.0, 1.0]], &Device::Cpu).unwrap();
    let targets = Tensor::new(&[2u32, 3], &Device::Cpu).unwrap();
    let of =
        |t, stops: &[u32]| logprobs(&logits, &targets, t, stops).unwrap().to_vec1::<f64>().unwrap();
    let sum = |xs: &[f64]| xs.iter().map(|x| x.exp()).sum::<f64>();
    let all = [sum(&[0.0, 0.5, 1.0, 1.5]), sum(&[0.5, 0.0, 0.0, 0.5])];
    let expected = [1.0 - all[0].ln(), 0.5 - all[1].ln()];
    for stops in [&[][..], &[3]] {
        let found = of(2.0, stops);
        assert!((found[0] - expected[0]).abs() < 1e-12 && (found[1] - expected[1]).abs() < 1e-12);
    }
    let found = of(2.0, &[3, 0]);
    assert!((found[0] - expected[0]).abs() < 1e-12);
    assert!((found[1] - (2.0 * 0.5f64.exp() / all[1]).ln()).abs() < 1e-12);
    let error = logprobs(&logits, &targets, 0.0, &[]).unwrap_err().to_string();
    assert!(error.contains("positive temperature, not 0"), "{error}");
}

#[test]
fn positions_outside_the_batch_are_refused() {
    let decoder = tiny::decoder(tiny::LLAMA, DType::F32);
    let (tokens, ..) = inputs();
    let select = Tensor::new(&[27u32], &Device::Cpu).unwrap();
    let error = decoder.logits(&tokens, &select).unwrap_err().to_string();
    assert_eq!(error, "selected position 27 is outside the 3 x 9 tokens");
    let tokens = Tensor::new(&[[1u32, 23]], &Device::Cpu).unwrap();
    let select = Tensor::new(&[1u32], &Device::Cpu).unwrap();
    let error = decoder.logits(&tokens, &select).unwrap_err().to_string();
    assert_eq!(error, "token 23 is outside the 23 tokens");
    let none = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
    assert_eq!(decoder.logits(&tokens, &none).unwrap().dims(), [0, 23]);
}
