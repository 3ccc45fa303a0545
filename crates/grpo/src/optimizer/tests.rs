//! Parity with a scalar reference and with candle's own AdamW; continuation after a save.

use candle_core::Device;
use candle_nn::optim::{Optimizer, ParamsAdamW};

use super::*;

const CPU: Device = Device::Cpu;

/// A matrix and a vector whose values depend on the element.
fn parameters(dtype: DType) -> Parameters {
    let var = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|i| (i as f64 * 0.7).sin()).collect();
        let tensor = Tensor::from_vec(values, shape, &CPU).unwrap().to_dtype(dtype).unwrap();
        Var::from_tensor(&tensor).unwrap()
    };
    let vars = [("layer.weight".to_owned(), var(&[3, 2])), ("norm.weight".to_owned(), var(&[4]))];
    Parameters::new(vars.into()).unwrap()
}

fn gradients(parameters: &Parameters, step: u64) -> Gradients {
    let mut gradients = Gradients::zeros(parameters).unwrap();
    for (i, value) in gradients.flat_mut().iter_mut().enumerate() {
        *value = ((i as f32 + 1.3) * (step as f32 + 0.6)).cos();
    }
    gradients
}

/// As it is read back from a file.
fn saved(state: &OptimizerState) -> BTreeMap<String, Tensor> {
    let entry = |(name, shape, values): (String, &[usize], &[f32])| {
        (name, Tensor::from_slice(values, shape, &CPU).unwrap())
    };
    state.entries().map(entry).collect()
}

fn values(parameters: &Parameters) -> Vec<f64> {
    let read = |var: &Var| var.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    parameters.iter().flat_map(|(_, var)| read(var).unwrap()).collect()
}

#[test]
fn agrees_with_a_scalar_reference_and_spares_vectors_the_decay() {
    for dtype in [DType::F32, DType::F64] {
        let p = parameters(dtype);
        let settings = AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() };
        let mut expected = values(&p);
        let mut moments = vec![(0.0_f64, 0.0_f64); expected.len()];
        let mut optimizer = AdamW::new(p.clone(), settings).unwrap();
        for step in 0..20 {
            let (gradients, rate) = (gradients(&p, step), 0.01 * (step + 1) as f64);
            optimizer.step(&gradients, rate).unwrap();
            let power = (step + 1) as i32;
            for (i, weight) in expected.iter_mut().enumerate() {
                let g = f64::from(gradients.flat().unwrap()[i]);
                let (m, v) = &mut moments[i];
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.95 * *v + 0.05 * g * g;
                let (m_hat, v_hat) =
                    (*m / (1.0 - 0.9_f64.powi(power)), *v / (1.0 - 0.95_f64.powi(power)));
                let decay = if i < 6 { 0.1 } else { 0.0 };
                *weight -= rate * (decay * *weight + m_hat / (v_hat.sqrt() + 1e-8));
            }
        }
        for (found, expected) in values(&p).iter().zip(&expected) {
            assert!((found - expected).abs() < 2e-6, "{dtype:?}: {found} for {expected}");
        }
    }
}

#[test]
fn agrees_with_candle_where_decay_applies_to_all() {
    let matrix = |p: &Parameters| p.iter().next().unwrap().1.clone();
    let ours = Parameters::new([("w".to_owned(), matrix(&parameters(DType::F32)))].into()).unwrap();
    let theirs = matrix(&parameters(DType::F32));
    let params = ParamsAdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let mut reference = candle_nn::AdamW::new(vec![theirs.clone()], params).unwrap();
    let settings = AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() };
    let mut optimizer = AdamW::new(ours.clone(), settings).unwrap();
    for step in 0..20 {
        let gradients = gradients(&ours, step);
        optimizer.step(&gradients, 0.01).unwrap();
        let tensor = Tensor::from_slice(&gradients.flat().unwrap(), (3, 2), &CPU).unwrap();
        let mut store = candle_core::backprop::GradStore::default();
        store.insert(&theirs, tensor);
        reference.step(&store).unwrap();
    }
    let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (found, expected) in values(&ours).iter().zip(theirs) {
        assert!((found - f64::from(expected)).abs() < 1e-6, "{found} for {expected}");
    }
}

#[test]
fn goes_on_bitwise_after_a_save() {
    let p = parameters(DType::F32);
    let mut straight = AdamW::new(p.clone(), AdamWSettings::default()).unwrap();
    for step in 0..7 {
        straight.step(&gradients(&p, step), 0.02).unwrap();
    }
    let (state, count) = (saved(&straight.state().unwrap()), straight.step_count());
    assert_eq!(count, 7);
    let copies = p.iter().map(|(name, var)| {
        let copy = Var::from_tensor(&var.copy().unwrap()).unwrap();
        (name.to_owned(), copy)
    });
    let resumed_parameters = Parameters::new(copies.collect()).unwrap();
    let mut resumed = AdamW::new(resumed_parameters.clone(), AdamWSettings::default()).unwrap();
    resumed.load_state(&state, count).unwrap();
    let before = values(&p);
    for step in 7..14 {
        straight.step(&gradients(&p, step), 0.02).unwrap();
        resumed.step(&gradients(&resumed_parameters, step), 0.02).unwrap();
    }
    assert_ne!(before, values(&p));
    let bits = |p: &Parameters| values(p).iter().map(|v| v.to_bits()).collect::<Vec<u64>>();
    assert_eq!(bits(&p), bits(&resumed_parameters));
    for (resumed, straight) in
        [(&resumed.first, &straight.first), (&resumed.second, &straight.second)]
    {
        assert_eq!(resumed.to_host().unwrap(), straight.to_host().unwrap());
    }
}

#[test]
fn a_state_stays_as_it_was_and_is_copied_only_when_the_optimiser_goes_on() {
    let p = parameters(DType::F32);
    let mut optimizer = AdamW::new(p.clone(), AdamWSettings::default()).unwrap();
    optimizer.step(&gradients(&p, 0), 0.1).unwrap();
    let numbers = |state: &OptimizerState| {
        state.entries().flat_map(|(_, _, values)| values.to_vec()).collect::<Vec<f32>>()
    };
    let taken = optimizer.state().unwrap();
    let before = numbers(&taken);
    assert!(Arc::ptr_eq(&taken.first, &optimizer.state().unwrap().first), "nothing is copied yet");
    optimizer.step(&gradients(&p, 1), 0.1).unwrap();
    assert_eq!(numbers(&taken), before);
    assert_ne!(numbers(&optimizer.state().unwrap()), before);
    drop(taken);
    let moments = |optimizer: &AdamW| optimizer.first.to_host().unwrap().as_ptr();
    let place = moments(&optimizer);
    optimizer.step(&gradients(&p, 2), 0.1).unwrap();
    assert_eq!(moments(&optimizer), place, "nobody else reads them");
}

#[test]
fn foreign_state_is_refused_by_name_and_changes_nothing() {
    let p = parameters(DType::F32);
    let mut optimizer = AdamW::new(p.clone(), AdamWSettings::default()).unwrap();
    optimizer.step(&gradients(&p, 0), 0.1).unwrap();
    let good = saved(&optimizer.state().unwrap());
    let names: Vec<&str> = good.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "first_moment.layer.weight",
            "first_moment.norm.weight",
            "second_moment.layer.weight",
            "second_moment.norm.weight"
        ]
    );
    let mut refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut state = good.clone();
        change(&mut state);
        optimizer.load_state(&state, 9).expect_err("must be refused").to_string()
    };
    let replace = |value: Tensor| {
        move |state: &mut BTreeMap<String, Tensor>| {
            state.insert("second_moment.norm.weight".to_owned(), value.clone());
        }
    };
    assert!(
        refused(&|s| drop(s.remove("first_moment.norm.weight"))).contains("no `first_moment.norm")
    );
    assert!(
        refused(&|s| drop(s.insert("x".to_owned(), s["first_moment.norm.weight"].clone())))
            .contains("`x`")
    );
    let other = Tensor::zeros(5, DType::F32, &CPU).unwrap();
    assert!(refused(&replace(other)).contains("f32 [5], expected f32 [4]"));
    let double = Tensor::zeros(4, DType::F64, &CPU).unwrap();
    assert!(refused(&replace(double)).contains("f64 [4]"));
    let broken = Tensor::new(&[0.0_f32, f32::NAN, 0.0, 0.0], &CPU).unwrap();
    assert!(refused(&replace(broken)).contains("not finite"));
    assert_eq!(optimizer.step_count(), 1);
    let kept = saved(&optimizer.state().unwrap());
    for (name, tensor) in &good {
        let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(bits(tensor), bits(&kept[name]), "{name}");
    }
}

#[test]
fn broken_or_foreign_gradients_change_nothing() {
    let p = parameters(DType::F32);
    let before = values(&p);
    let mut optimizer = AdamW::new(p.clone(), AdamWSettings::default()).unwrap();
    let mut broken = gradients(&p, 0);
    broken.flat_mut()[7] = f32::INFINITY;
    let error = optimizer.step(&broken, 0.1).expect_err("must be refused").to_string();
    assert!(error.contains("`norm.weight`"), "{error}");
    let single = [("w".to_owned(), Var::zeros((3, 2), DType::F32, &CPU).unwrap())];
    let foreign = Gradients::zeros(&Parameters::new(single.into()).unwrap()).unwrap();
    assert!(optimizer.step(&foreign, 0.1).is_err());
    assert_eq!((values(&p), optimizer.step_count()), (before, 0));
}

#[test]
fn parts_of_the_flat_order_make_the_whole_step() {
    for dtype in [DType::F32, DType::F64] {
        let whole = parameters(dtype);
        let settings = AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() };
        let mut expected = AdamW::new(whole.clone(), settings).unwrap();
        // The parts share the variables and meet inside the matrix and inside the vector.
        let shared = parameters(dtype);
        let mut parts =
            [0..4, 4..9, 9..10].map(|part| AdamW::of_part(shared.clone(), settings, part).unwrap());
        for step in 0..5 {
            expected.step(&gradients(&whole, step), 0.01).unwrap();
            for part in &mut parts {
                // What lies outside of a part is not looked at.
                let mut own = gradients(&shared, step);
                let range = part.part().clone();
                own.flat_mut()[..range.start].fill(f32::NAN);
                own.flat_mut()[range.end..].fill(f32::INFINITY);
                part.step(&own, 0.01).unwrap();
            }
        }
        assert_eq!(values(&whole), values(&shared));
        let error = parts[0].state().unwrap_err().to_string();
        assert!(error.contains("4 entries where 10"), "{error}");
        let moments =
            |of: &AdamW| [&of.first, &of.second].map(|m| m.to_host().unwrap().into_owned());
        let mut others = (0..2).map(|kind| {
            parts.iter().flat_map(|part| moments(part)[kind].clone()).collect::<Vec<f32>>()
        });
        let gathered = parts[1].gathered_state(|buffer| {
            assert_eq!((buffer[3], buffer[9]), (0.0, 0.0), "only its own part is filled in");
            buffer.copy_from_slice(&others.next().unwrap());
            Ok::<(), Error>(())
        });
        let (gathered, whole) = (saved(&gathered.unwrap()), saved(&expected.state().unwrap()));
        for (name, tensor) in &whole {
            let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(numbers(tensor), numbers(&gathered[name]), "{name}");
        }
        let mut resumed = AdamW::of_part(shared.clone(), settings, 4..9).unwrap();
        resumed.load_state(&gathered, 5).unwrap();
        assert_eq!(moments(&resumed), moments(&parts[1]));
    }
}
