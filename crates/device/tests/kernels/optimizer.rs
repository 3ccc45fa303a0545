//! Passes over flat buffers against the same sums done plainly.

use device::{
    AccumulateRows, AdamW, Elements, Numbers, Piece, RowSpans, accumulate, scale, sum_of_squares,
};
use half::bf16;

use crate::emulator::Memory;
use crate::{close, numbers};

/// No multiple of a block.
const COUNT: usize = 1003;

#[test]
fn gradients_add_up_whatever_their_type() {
    let (sum, x) = (numbers(1, COUNT), numbers(2, COUNT));
    let bits: Vec<u16> = x.iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
    let mut memory = Memory::default();
    let (to, wide, half) = (memory.f32(&sum), memory.f32(&x), memory.u16(&bits));
    let piece = Piece { start: to, count: COUNT as u64 };
    memory.run(&accumulate(piece, Elements { start: wide, numbers: Numbers::F32 }));
    memory.run(&accumulate(piece, Elements { start: half, numbers: Numbers::Bf16 }));
    memory.run(&scale(piece, 0.25));
    let expected: Vec<f64> = (0..COUNT)
        .map(|i| {
            let half = f64::from(bf16::from_bits(bits[i]).to_f32());
            0.25 * (f64::from(sum[i]) + f64::from(x[i]) + half)
        })
        .collect();
    close(&memory.read_f32(to), &expected, 1e-6);
}

#[test]
fn rows_are_added_where_they_belong_in_their_order() {
    let width = 300; // no multiple of a block
    // Sums of these depend on their order: f32 has no 1e8 + 1.
    let terms = [1e8f32, 1.0, -1e8, 0.5, 2.0];
    let rows = [3, 0, 3, 3, 0];
    let spans = RowSpans::of(&rows);
    assert_eq!(spans.order, [1, 4, 0, 2, 3]);
    assert_eq!(spans.spans, [[0, 0, 2], [3, 2, 5]]);
    let x: Vec<f32> = terms.iter().flat_map(|term| vec![*term; width]).collect();
    let before = numbers(8, 4 * width);
    let mut expected = before.clone();
    for (row, term) in rows.iter().zip(terms) {
        expected[*row as usize * width..][..width].iter_mut().for_each(|sum| *sum += term);
    }
    let bits: Vec<u16> = x.iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
    for numbers in [Numbers::F32, Numbers::Bf16] {
        let mut memory = Memory::default();
        let sum = memory.f32(&before);
        let start = if numbers == Numbers::F32 { memory.f32(&x) } else { memory.u16(&bits) };
        let (order, at) = (memory.u32(&spans.order), memory.u32(spans.spans.as_flattened()));
        let count = spans.spans.len() as u32;
        let x = Elements { start, numbers };
        let width = width as u32;
        memory.run(&AccumulateRows { sum, x, order, spans: at, count, width }.call());
        let found = memory.read_f32(sum);
        if numbers == Numbers::F32 {
            assert_eq!(found, expected);
        } else {
            let untouched = width as usize..3 * width as usize;
            assert_eq!(found[untouched.clone()], before[untouched]);
            assert!((found[0] - expected[0]).abs() < 1e-6, "{} and {}", found[0], expected[0]);
        }
    }
    assert_eq!(RowSpans::of(&[]), RowSpans::default());
}

#[test]
fn the_norm_is_summed_in_f64() {
    let mut x = numbers(3, COUNT);
    x[0] = 1e20; // its square is no f32
    let mut memory = Memory::default();
    let start = memory.f32(&x);
    let sums = memory.bytes(vec![0; 8 * 4]);
    let call = sum_of_squares(sums, Piece { start, count: COUNT as u64 });
    assert_eq!(call.grid, (4, 1));
    memory.run(&call);
    let total: f64 = memory.read_f64(sums).iter().sum();
    let expected: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    assert!((total / expected - 1.0).abs() < 1e-12, "{total} is not {expected}");
}

#[test]
fn an_update_is_algorithm_2_of_the_paper() {
    let (weights, gradients) = (numbers(4, COUNT), numbers(5, COUNT));
    let first = numbers(6, COUNT);
    let second: Vec<f32> = numbers(7, COUNT).iter().map(|x| x.abs()).collect();
    let mut memory = Memory::default();
    let [w, m, v, g] = [&weights, &first, &second, &gradients].map(|x| memory.f32(x));
    let update = AdamW {
        weights: Piece { start: w, count: COUNT as u64 },
        first: m,
        second: v,
        gradients: g,
        betas: [0.9, 0.1, 0.99, 0.01],
        scales: [2.0, 3.0],
        rate: 0.05,
        decay: 0.002,
        eps: 1e-4,
    };
    memory.run(&update.call());
    let wide = |x: f32| f64::from(x);
    let moments: Vec<(f64, f64)> = (0..COUNT)
        .map(|i| {
            let g = wide(gradients[i]);
            (0.9 * wide(first[i]) + 0.1 * g, 0.99 * wide(second[i]) + 0.01 * g * g)
        })
        .collect();
    let updated: Vec<f64> = (0..COUNT)
        .map(|i| {
            let (m, v) = (moments[i].0 * 2.0, moments[i].1 * 3.0);
            wide(weights[i]) * (1.0 - 0.002) - 0.05 * m / (v.sqrt() + 1e-4)
        })
        .collect();
    close(&memory.read_f32(w), &updated, 1e-5);
    close(&memory.read_f32(m), &moments.iter().map(|m| m.0).collect::<Vec<f64>>(), 1e-6);
    close(&memory.read_f32(v), &moments.iter().map(|m| m.1).collect::<Vec<f64>>(), 1e-6);
}
