//! What the ragged engine refuses, and how it changes weights.

use candle_core::{DType, Var};
use model::{Decoder, RaggedEngine, RowInput, Rows, Want};

use crate::tiny::{self, distance, feed};

fn input(row: usize, tokens: &[u32]) -> RowInput<'_> {
    RowInput { row, tokens, want: Want::Last }
}

#[test]
fn impossible_steps_are_refused_and_change_nothing() {
    let decoder = tiny::decoder(tiny::LLAMA, DType::F32);
    let mut engine = RaggedEngine::new(decoder.clone(), 2, 6).unwrap();
    assert_eq!((engine.rows(), engine.capacity(), engine.is_empty()), (2, 6, true));
    feed(&mut engine, 1, &[1, 2, 3, 4]);
    let refused: [(&[RowInput<'_>], &str); 5] = [
        (
            &[input(0, &[1]), input(1, &[1, 2, 3])],
            "row 1 is full: 4 + 3 tokens exceed its capacity of 6",
        ),
        (&[input(0, &[1]), input(2, &[1])], "row 2 does not exist, the engine has 2"),
        (&[input(0, &[1]), input(0, &[1])], "row 0 is named twice in one step"),
        (&[input(0, &[1]), input(1, &[])], "row 1 is given no tokens"),
        (&[input(0, &[1, 23])], "token 23 is outside the 23 tokens"),
    ];
    for (inputs, message) in refused {
        assert_eq!(engine.step(inputs).unwrap_err().to_string(), message);
        assert_eq!((engine.len(0), engine.len(1)), (0, 4));
    }
    assert!(engine.clear(2).is_err() && engine.copy_row(0, 2).is_err());
    assert_eq!(engine.step(&[]).unwrap().logits().unwrap().dims(), [0, 23]);
    engine.step(&[input(1, &[1, 2])]).unwrap();
    assert_eq!(engine.len(1), 6);
    let error = RaggedEngine::new(decoder.clone(), 2, 65).err().unwrap().to_string();
    assert!(error.contains("max_position_embeddings = 64"), "{error}");
    let half = tiny::decoder(tiny::LLAMA, DType::F16);
    let error = RaggedEngine::new(half.clone(), 2, 6).err().unwrap().to_string();
    assert!(error.contains("not F16"), "{error}");
}

#[test]
fn new_weights_clear_the_rows_and_writes_to_variables_wait_for_them() {
    let config = tiny::config(tiny::QWEN2);
    let vars: Vec<(String, Var)> = tiny::tensors(&config, DType::F64)
        .iter()
        .map(|(name, tensor)| (name.clone(), Var::from_tensor(tensor).unwrap()))
        .collect();
    let tensors = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    let start = Decoder::new(config.clone(), tiny::tensors(&config, DType::F64)).unwrap();
    let decoder = Decoder::new(config, tensors).unwrap();
    let text = tiny::ids(3, 7);
    let before = tiny::train_logits(&decoder, &text);
    let mut engine = RaggedEngine::new(decoder.clone(), 1, 8).unwrap();
    for (_, var) in &vars {
        var.set(&var.affine(0.9, 0.01).unwrap()).unwrap();
    }
    let after = tiny::train_logits(&decoder, &text);
    assert!(distance(&before, &after) > 1e-3);
    assert!(distance(&tiny::train_logits(&start, &text), &before) < 1e-12);
    assert!(distance(&feed(&mut engine, 0, &text), &before) < 1e-9);
    engine.set_decoder(decoder.clone(), Rows::Cleared).unwrap();
    assert_eq!(engine.len(0), 0);
    assert!(distance(&feed(&mut engine, 0, &text), &after) < 1e-9);
    let other = tiny::decoder(tiny::LLAMA, DType::F64);
    let refused = engine.set_decoder(other.clone(), Rows::Cleared).unwrap_err().to_string();
    assert!(refused.contains("another configuration"), "{refused}");
    assert_eq!(engine.len(0), 7);
}

#[test]
fn rows_that_are_kept_stay_what_the_old_weights_made_them() {
    let config = tiny::config(tiny::LLAMA);
    let old = tiny::decoder(tiny::LLAMA, DType::F64);
    let changed = tiny::tensors(&config, DType::F64).into_iter();
    let changed = changed.map(|(name, t)| (name, t.affine(0.9, 0.01).unwrap())).collect();
    let new = Decoder::new(config, changed).unwrap();
    let text = tiny::ids(3, 7);
    let read = &text[..6];
    let after = |swaps: &[(&Decoder, Rows)]| {
        let mut engine = RaggedEngine::new(old.clone(), 1, 8).unwrap();
        feed(&mut engine, 0, read);
        for (decoder, rows) in swaps {
            engine.set_decoder((*decoder).clone(), *rows).unwrap();
        }
        let lacks = &text[engine.len(0)..];
        feed(&mut engine, 0, lacks)[lacks.len() - 1..].to_vec()
    };
    let by = |decoder| tiny::train_logits(decoder, &text)[6..].to_vec();
    assert!(distance(&after(&[(&new, Rows::Cleared)]), &by(&new)) < 1e-9);
    let mixed = after(&[(&new, Rows::Kept)]);
    assert!(distance(&mixed, &by(&new)) > 1e-3 && distance(&mixed, &by(&old)) > 1e-3);
    assert!(distance(&after(&[(&new, Rows::Kept), (&old, Rows::Kept)]), &by(&old)) < 1e-9);
}
