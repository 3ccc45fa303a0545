//! Training forward, prefill and ragged decode give the same log-probabilities.

use candle_core::{DType, Device, Tensor};
use model::{RaggedEngine, RowInput, Want, Wanted};

use crate::tiny::{self, distance, feed};

fn check(dtype: DType, tolerance: f64) {
    for kind in tiny::KINDS {
        let decoder = tiny::decoder(kind, dtype);
        let texts: Vec<Vec<u32>> =
            [31, 5, 18].iter().enumerate().map(|(i, n)| tiny::ids(80 + i as u64, *n)).collect();
        let truth: Vec<_> = texts.iter().map(|t| tiny::train_logits(&decoder, t)).collect();
        let close = |found: &[Vec<f64>], expected: &[Vec<f64>], what: &str| {
            let off = distance(found, expected);
            assert!(off < tolerance, "{what}, {kind:?}: {off:e} apart");
        };

        let mut engine = RaggedEngine::new(decoder.clone(), 4, 40).unwrap();
        close(&feed(&mut engine, 2, &texts[0]), &truth[0], "prefill");

        // Three rows of different length, each by chunks of its own size.
        engine.clear(2).unwrap();
        let sizes = [[7, 1, 13, 9, 1], [1, 1, 1, 1, 1], [2, 11, 3, 1, 1]];
        let mut done = [0; 3];
        let mut found = vec![Vec::new(); 3];
        for round in 0..5 {
            let order = [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0], [0, 2, 1]][round];
            let inputs = order.map(|i| {
                let tokens = &texts[i][done[i]..done[i] + sizes[i][round]];
                RowInput { row: i, tokens, want: Want::All }
            });
            let out = engine.step(&inputs).unwrap();
            for (wanted, logits) in out.wanted.iter().zip(tiny::rows(&out.logits().unwrap())) {
                assert_eq!(wanted.position, found[wanted.row].len());
                found[wanted.row].push(logits);
            }
            (0..3).for_each(|i| done[i] += sizes[i][round]);
        }
        (0..3).for_each(|i| close(&found[i], &truth[i], "ragged decode"));

        // A shared prefix goes on differently in another row, then is cut back and repeated.
        engine.copy_row(0, 3).unwrap();
        engine.truncate(3, 10).unwrap();
        let mut forked = texts[0][..10].to_vec();
        forked.extend(tiny::ids(99, 12));
        let expected = tiny::train_logits(&decoder, &forked);
        close(&feed(&mut engine, 3, &forked[10..]), &expected[10..], "after a fork");
        engine.truncate(3, 4).unwrap();
        close(&feed(&mut engine, 3, &texts[0][4..9]), &truth[0][4..9], "after a cut");
        engine.truncate(0, 30).unwrap();
        close(&feed(&mut engine, 0, &texts[0][30..]), &truth[0][30..], "of the row copied from");
    }
}

#[test]
fn forwards_agree_in_f32() {
    check(DType::F32, 2e-5);
}

#[test]
fn forwards_agree_in_f64() {
    check(DType::F64, 1e-9);
}

/// So many that threads share the heads.
#[test]
fn a_long_prompt_agrees_with_training() {
    let long = |more| tiny::Kind { more, ..tiny::QWEN3 };
    let whole = long(r#"{"head_dim": 8, "max_position_embeddings": 512}"#);
    let window = long(
        r#"{"head_dim": 8, "max_position_embeddings": 512, "use_sliding_window": true,
            "sliding_window": 300, "max_window_layers": 1}"#,
    );
    for kind in [whole, window] {
        let decoder = tiny::decoder(kind, DType::F64);
        let texts = [tiny::ids(7, 400), tiny::ids(8, 250)];
        let truth = texts.each_ref().map(|text| tiny::train_logits(&decoder, text));
        let mut engine = RaggedEngine::new(decoder, 3, 400).unwrap();
        // The second row has a past, and both go on in one step.
        feed(&mut engine, 0, &texts[1][..50]);
        let inputs = [(2, &texts[0][..]), (0, &texts[1][50..])].map(|(row, tokens)| RowInput {
            row,
            tokens,
            want: Want::All,
        });
        let found = tiny::rows(&engine.step(&inputs).unwrap().logits().unwrap());
        let off = distance(&found, &[&truth[0][..], &truth[1][50..]].concat());
        assert!(off < 1e-9, "{kind:?}: {off:e} apart");
    }
}

#[test]
fn wanted_positions_and_padding_leave_the_rest_unchanged() {
    let kind = tiny::KINDS[3];
    let decoder = tiny::decoder(kind, DType::F64);
    let (a, b) = (tiny::ids(1, 6), tiny::ids(2, 3));
    let (whole_a, whole_b) = (tiny::train_logits(&decoder, &a), tiny::train_logits(&decoder, &b));

    let mut engine = RaggedEngine::new(decoder.clone(), 3, 8).unwrap();
    let out = engine.step(&[
        RowInput { row: 2, tokens: &a[..4], want: Want::Nothing },
        RowInput { row: 0, tokens: &b, want: Want::Last },
    ]);
    let out = out.unwrap();
    assert_eq!(out.wanted, [Wanted { row: 0, position: 2 }]);
    assert!(distance(&tiny::rows(&out.logits().unwrap()), &whole_b[2..]) < 1e-12);
    let out = engine.step(&[RowInput { row: 2, tokens: &a[4..], want: Want::Last }]).unwrap();
    assert_eq!(out.wanted, [Wanted { row: 2, position: 5 }]);
    assert!(distance(&tiny::rows(&out.logits().unwrap()), &whole_a[5..]) < 1e-12);
    let out = engine.step(&[RowInput { row: 1, tokens: &a, want: Want::Nothing }]).unwrap();
    assert_eq!((out.logits().unwrap().dims(), out.wanted.len()), (&[0, 23][..], 0));
    assert_eq!((engine.len(0), engine.len(1), engine.len(2)), (3, 6, 6));

    // Training: b is padded on the right; order and repetition of the selection are kept.
    let tokens = tiny::batch(&[&a, &[b.as_slice(), &[0; 3]].concat()]);
    let select = Tensor::new(&[8u32, 1, 8, 5], &Device::Cpu).unwrap();
    let found = tiny::rows(&decoder.logits(&tokens, &select).unwrap());
    let expected = [&whole_b[2], &whole_a[1], &whole_b[2], &whole_a[5]].map(Clone::clone);
    assert!(distance(&found, &expected) < 1e-12);
}
