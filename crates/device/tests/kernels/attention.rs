//! Attention against its definition in f64, its gradients against finite differences.

use device::{
    Attend, AttendBackwardKeys, AttendBackwardQueries, AttentionShape, CopyRow, Numbers, StoreKeys,
};

use crate::emulator::Memory;
use crate::{close, numbers};

/// Two texts of 5 and 3 tokens, one after the other.
const LENS: [usize; 2] = [5, 3];
const TOKENS: usize = 8;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
/// No multiple of a warp.
const DIM: usize = 40;
const SCALE: f32 = 0.3;

/// The first token of a token's text, and its position in it.
fn place(token: usize) -> (usize, usize) {
    if token < LENS[0] { (0, token) } else { (LENS[0], token - LENS[0]) }
}

fn angles() -> Vec<f32> {
    let angle = |position: usize, i: usize| (position as f64) * 0.7f64.powi(i as i32);
    let half = DIM / 2;
    let table = (0..8).flat_map(|position| {
        let cos = (0..half).map(move |i| angle(position, i).cos() as f32);
        cos.chain((0..half).map(move |i| angle(position, i).sin() as f32))
    });
    table.collect()
}

fn turned(x: &[f64], position: usize) -> Vec<f64> {
    let (angles, half) = (angles(), DIM / 2);
    let at = |i: usize| f64::from(angles[position * DIM + i]);
    let low = (0..half).map(|i| x[i] * at(i) - x[i + half] * at(i + half));
    low.chain((0..half).map(|i| x[i + half] * at(i) + x[i] * at(i + half))).collect()
}

/// The attention of `readers`, which are tokens; `q` has one row for each of them.
fn plain(q: &[f64], k: &[f64], v: &[f64], (readers, window): (&[usize], usize)) -> Vec<f64> {
    let row = |x: &[f64], i: usize, heads: usize, head: usize| {
        x[(i * heads + head) * DIM..(i * heads + head + 1) * DIM].to_vec()
    };
    let mut out = Vec::new();
    for (r, reader) in readers.iter().enumerate() {
        let (first, position) = place(*reader);
        let seen = (0..=position).filter(|j| window == 0 || position - j < window);
        for head in 0..HEADS {
            let kv_head = head / (HEADS / KV_HEADS);
            let query = turned(&row(q, r, HEADS, head), position);
            let scores = seen.clone().map(|j| {
                let key = turned(&row(k, first + j, KV_HEADS, kv_head), j);
                let score: f64 = query.iter().zip(&key).map(|(a, b)| a * b).sum();
                (score * f64::from(SCALE)).exp()
            });
            let weights: Vec<f64> = scores.collect();
            let sum: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; DIM];
            for (j, weight) in seen.clone().zip(&weights) {
                let value = row(v, first + j, KV_HEADS, kv_head);
                mixed.iter_mut().zip(value).for_each(|(m, v)| *m += weight / sum * v);
            }
            out.extend(mixed);
        }
    }
    out
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn shape(head_rows: usize, window: usize) -> AttentionShape {
    AttentionShape {
        heads: HEADS as u32,
        kv_heads: KV_HEADS as u32,
        head_dim: DIM as u32,
        head_rows: head_rows as u32,
        window: window as u32,
        scale: SCALE,
        numbers: Numbers::F32,
    }
}

/// Queries, keys, values.
fn inputs(readers: usize) -> [Vec<f32>; 3] {
    [
        numbers(1, readers * HEADS * DIM),
        numbers(2, TOKENS * KV_HEADS * DIM),
        numbers(3, TOKENS * KV_HEADS * DIM),
    ]
}

/// Gives the gradients of q, k and v for the sum of `weights` times the attention.
fn differences(readers: &[usize], window: usize, weights: &[f32]) -> [Vec<f64>; 3] {
    let mut all = inputs(readers.len()).map(|x| wide(&x));
    let loss = |[q, k, v]: &[Vec<f64>; 3]| -> f64 {
        let out = plain(q, k, v, (readers, window));
        out.iter().zip(weights).map(|(x, w)| x * f64::from(*w)).sum()
    };
    let mut grads = [vec![], vec![], vec![]];
    for input in 0..3 {
        for i in 0..all[input].len() {
            let mut at = |by: f64| {
                all[input][i] += by;
                let loss = loss(&all);
                all[input][i] -= by;
                loss
            };
            let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
            grads[input].push(slope);
        }
    }
    grads
}

/// Lays keys down as training does: `[KH, tokens, hd]`.
fn stored(memory: &mut Memory, k: &[f32], v: &[f32], angles: usize) -> (usize, usize) {
    let (keys, values) = (memory.f32(&vec![9.0; k.len()]), memory.f32(&vec![9.0; v.len()]));
    let tokens: Vec<u32> = (0..TOKENS).flat_map(|i| [i as u32, place(i).1 as u32]).collect();
    let call = StoreKeys {
        keys,
        values,
        k: memory.f32(k),
        k_width: (KV_HEADS * DIM) as u32,
        v: memory.f32(v),
        v_width: (KV_HEADS * DIM) as u32,
        tokens: memory.u32(&tokens),
        count: TOKENS as u32,
        angles,
    };
    memory.run(&call.call(shape(TOKENS, 0)));
    (keys, values)
}

fn readers_table(readers: &[usize]) -> Vec<u32> {
    let row = |(r, token): (usize, &usize)| {
        let (first, position) = place(*token);
        [r as u32, first as u32, position as u32]
    };
    readers.iter().enumerate().flat_map(row).collect()
}

/// For each key the readers that see it, as a part of the readers in the order of the texts.
fn seen_by(readers: &[usize], window: usize) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..readers.len() as u32).collect();
    order.sort_by_key(|r| readers[*r as usize]);
    let sees = |reader: usize, key: usize| {
        let ((first, position), (own, at)) = (place(reader), place(key));
        first == own && position >= at && (window == 0 || position - at < window)
    };
    let rows = (0..TOKENS).flat_map(|key| {
        let seeing = |r: &u32| sees(readers[*r as usize], key);
        let begin = order.iter().position(seeing).unwrap_or(0);
        let count = order.iter().filter(|r| seeing(r)).count();
        [begin as u32, (begin + count) as u32, place(key).1 as u32]
    });
    (rows.collect(), order)
}

#[test]
fn packed_texts_attend_as_defined_and_have_the_slopes_of_it() {
    // All tokens; then some of them, out of order and one twice, under a window.
    let cases: [(&[usize], usize); 2] = [(&[0, 1, 2, 3, 4, 5, 6, 7], 0), (&[7, 2, 4, 4, 0], 2)];
    for (readers, window) in cases {
        let [q, k, v] = inputs(readers.len());
        let grad = numbers(4, q.len());
        let mut memory = Memory::default();
        let angles = memory.f32(&angles());
        let (keys, values) = stored(&mut memory, &k, &v, angles);
        let (out, q_buffer) = (memory.f32(&vec![9.0; q.len()]), memory.f32(&q));
        let table = memory.u32(&readers_table(readers));
        let (count, shape) = (readers.len() as u32, shape(TOKENS, window));
        let q_width = (HEADS * DIM) as u32;
        let call =
            Attend { out, q: q_buffer, q_width, readers: table, count, keys, values, angles };
        memory.run(&call.call(shape));
        let expected = plain(&wide(&q), &wide(&k), &wide(&v), (readers, window));
        close(&memory.read_f32(out), &expected, 1e-5);

        let queries = AttendBackwardQueries {
            grad_q: memory.f32(&vec![9.0; q.len()]),
            turned: memory.f32(&vec![9.0; q.len()]),
            saved: memory.f32(&vec![9.0; readers.len() * HEADS * 2]),
            q: q_buffer,
            res: out,
            grad: memory.f32(&grad),
            readers: table,
            count,
            keys,
            values,
            angles,
        };
        memory.run(&queries.call(shape));
        let (seen, order) = seen_by(readers, window);
        let both = AttendBackwardKeys {
            grad_k: memory.f32(&vec![9.0; k.len()]),
            grad_v: memory.f32(&vec![9.0; v.len()]),
            turned: queries.turned,
            saved: queries.saved,
            grad: queries.grad,
            queries: memory.u32(&seen),
            order: memory.u32(&order),
            count: TOKENS as u32,
            keys,
            values,
            angles,
        };
        memory.run(&both.call(shape));
        let [grad_q, grad_k, grad_v] = differences(readers, window, &grad);
        close(&memory.read_f32(queries.grad_q), &grad_q, 2e-5);
        close(&memory.read_f32(both.grad_k), &grad_k, 2e-5);
        close(&memory.read_f32(both.grad_v), &grad_v, 2e-5);
    }
}

#[test]
fn a_cache_with_rows_to_spare_gives_the_same() {
    // Rows 2 and 0 of a cache of 3 rows with room for 6 tokens; queries, keys and values come as one
    // tensor, as the engine has them.
    const CAPACITY: usize = 6;
    let [q, k, v] = inputs(TOKENS);
    let joined: Vec<f32> = (0..TOKENS)
        .flat_map(|i| {
            let part = |x: &[f32], heads: usize| x[i * heads * DIM..(i + 1) * heads * DIM].to_vec();
            [part(&q, HEADS), part(&k, KV_HEADS), part(&v, KV_HEADS)].concat()
        })
        .collect();
    let start = |token: usize| if place(token).0 == 0 { 2 * KV_HEADS * CAPACITY } else { 0 };
    let tokens: Vec<u32> =
        (0..TOKENS).flat_map(|i| [(start(i) + place(i).1) as u32, place(i).1 as u32]).collect();
    let readers: Vec<u32> =
        [7usize, 4].iter().flat_map(|i| [*i, start(*i), place(*i).1].map(|x| x as u32)).collect();
    let (shape, width) = (shape(CAPACITY, 0), ((HEADS + 2 * KV_HEADS) * DIM) as u32);
    let mut memory = Memory::default();
    let angles = memory.f32(&angles());
    let all = memory.f32(&joined);
    let only = |memory: &mut Memory, from: usize| memory.f32(&joined[from..]);
    let cache = vec![f32::NAN; 3 * KV_HEADS * CAPACITY * DIM];
    let (keys, values) = (memory.f32(&cache), memory.f32(&cache));
    let call = StoreKeys {
        keys,
        values,
        k: only(&mut memory, HEADS * DIM),
        k_width: width,
        v: only(&mut memory, (HEADS + KV_HEADS) * DIM),
        v_width: width,
        tokens: memory.u32(&tokens),
        count: TOKENS as u32,
        angles,
    };
    memory.run(&call.call(shape));
    let out = memory.f32(&[9.0; 2 * HEADS * DIM]);
    let readers = memory.u32(&readers);
    let call = Attend { out, q: all, q_width: width, readers, count: 2, keys, values, angles };
    memory.run(&call.call(shape));
    let rows = |i: usize| &q[i * HEADS * DIM..(i + 1) * HEADS * DIM];
    let expected = plain(&wide(&[rows(7), rows(4)].concat()), &wide(&k), &wide(&v), (&[7, 4], 0));
    close(&memory.read_f32(out), &expected, 1e-5);
}

#[test]
fn a_row_of_a_cache_is_copied_head_by_head() {
    let (rows, heads, head_words) = (3u64, 2u32, 700u64);
    let before: Vec<u32> = (0..rows as u32 * heads * head_words as u32).collect();
    let mut memory = Memory::default();
    let cache = memory.u32(&before);
    let row_words = u64::from(heads) * head_words;
    let (from, to, words) = (2 * row_words, 0, 600);
    memory.run(&CopyRow { cache, from, to, kv_heads: heads, head_words, words }.call());
    let mut expected = before.clone();
    for head in 0..heads as usize {
        let at = head * head_words as usize;
        expected[at..at + 600].copy_from_slice(&before[2 * row_words as usize + at..][..600]);
    }
    assert_eq!(memory.read_u32(cache), expected);
}
