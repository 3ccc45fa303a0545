//! Norms and gated units against their definitions.

use device::{Gated, Numbers, RmsNorm};
use half::{bf16, f16};

use crate::emulator::Memory;
use crate::{close, numbers};

const ROWS: usize = 3;
const WIDTH: usize = 300;

fn norm_of(x: &[f32], weight: &[f32]) -> Vec<f64> {
    x.chunks(WIDTH)
        .flat_map(|row| {
            let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / WIDTH as f64;
            let scale = 1.0 / (mean + 1e-3).sqrt();
            let pairs = row.iter().zip(weight).collect::<Vec<_>>();
            pairs.into_iter().map(move |(x, w)| f64::from(*x) * scale * f64::from(*w))
        })
        .collect()
}

fn norm(memory: &mut Memory, [y, x, weight]: [usize; 3], numbers: Numbers) {
    let (rows, width) = (ROWS as u32, WIDTH as u32);
    memory.run(&RmsNorm { y, x, weight, rows, width, eps: 1e-3, numbers }.call());
}

#[test]
fn a_norm_is_its_definition() {
    let (x, weight) = (numbers(1, ROWS * WIDTH), numbers(2, WIDTH));
    let mut memory = Memory::default();
    let buffers = [memory.f32(&vec![9.0; x.len()]), memory.f32(&x), memory.f32(&weight)];
    norm(&mut memory, buffers, Numbers::F32);
    close(&memory.read_f32(buffers[0]), &norm_of(&x, &weight), 1e-6);
}

#[test]
fn half_types_are_read_exactly_and_rounded_once() {
    let (x, weight) = (numbers(3, ROWS * WIDTH), numbers(4, WIDTH));
    type Halves = (Numbers, fn(f32) -> u16, fn(u16) -> f32);
    let kinds: [Halves; 2] = [
        (Numbers::Bf16, |x| bf16::from_f32(x).to_bits(), |x| bf16::from_bits(x).to_f32()),
        (Numbers::F16, |x| f16::from_f32(x).to_bits(), |x| f16::from_bits(x).to_f32()),
    ];
    for (kind, round, widen) in kinds {
        let rounded = |values: &[f32]| values.iter().map(|x| round(*x)).collect::<Vec<u16>>();
        let widened = |values: &[u16]| values.iter().map(|x| widen(*x)).collect::<Vec<f32>>();
        let x = rounded(&x);
        let mut memory = Memory::default();
        let buffers = [memory.u16(&vec![9; x.len()]), memory.u16(&x), memory.f32(&weight)];
        norm(&mut memory, buffers, kind);
        let exact = norm_of(&widened(&x), &weight);
        let found = memory.read_u16(buffers[0]);
        // f32 on the way may put a number on the other side of a tie, rarely.
        let expected = rounded(&exact.iter().map(|x| *x as f32).collect::<Vec<f32>>());
        let other = found.iter().zip(&expected).filter(|(a, b)| a != b);
        assert!(other.clone().all(|(a, b)| a.abs_diff(*b) == 1), "{kind:?}");
        assert!(other.count() <= 2, "{kind:?}");
    }
}

#[test]
fn gated_units_are_their_definitions_on_parts_of_wider_rows() {
    let both = numbers(5, ROWS * 2 * WIDTH).iter().map(|x| x * 6.0).collect::<Vec<f32>>();
    let ups = numbers(6, ROWS * WIDTH);
    for gelu in [false, true] {
        let mut memory = Memory::default();
        let y = memory.f32(&[9.0; ROWS * WIDTH]);
        let call = Gated {
            y,
            gates: memory.f32(&both),
            ups: memory.f32(&ups),
            rows: ROWS as u64,
            width: WIDTH as u32,
            gates_width: 2 * WIDTH as u32,
            ups_width: WIDTH as u32,
            gelu,
            numbers: Numbers::F32,
        };
        let mut call = call.call();
        call.grid.0 = 2; // fewer threads than elements
        memory.run(&call);
        let act = |x: f64| match gelu {
            false => x / (1.0 + (-x).exp()),
            true => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
        };
        let expected: Vec<f64> = (0..ROWS * WIDTH)
            .map(|i| {
                let gate = f64::from(both[i / WIDTH * 2 * WIDTH + i % WIDTH]);
                act(gate) * f64::from(ups[i])
            })
            .collect();
        close(&memory.read_f32(y), &expected, 1e-6);
    }
}
