//! Calls of passes over flat buffers of gradients and weights, as they are updated.

use super::{Arg, Call, Elements, Piece, ROW_BLOCK};

/// Blocks of a pass over a flat buffer: all that a large device runs at once.
const FLAT_BLOCKS_MAX: u64 = 1024;

/// `sum += x`, f32.
#[must_use]
pub fn accumulate<P>(sum: Piece<P>, x: Elements<P>) -> Call<P> {
    let args = vec![Arg::Memory(sum.start), Arg::Memory(x.start), Arg::U64(sum.count)];
    flat(x.numbers.of("accumulate"), sum.count, args)
}

/// Adds rows of `x` to rows of an f32 `sum`, both `width` numbers wide.
#[derive(Clone, Copy, Debug)]
pub struct AccumulateRows<P> {
    pub sum: P,
    pub x: Elements<P>,
    /// u32 `[n]`: which rows of `x`, see [`RowSpans`].
    pub order: P,
    /// u32 `[count, 3]`, see [`RowSpans`].
    pub spans: P,
    pub count: u32,
    pub width: u32,
}

impl<P> AccumulateRows<P> {
    #[must_use]
    pub fn call(self) -> Call<P> {
        let args = vec![
            Arg::Memory(self.sum),
            Arg::Memory(self.x.start),
            Arg::Memory(self.order),
            Arg::Memory(self.spans),
            Arg::U32(self.width),
        ];
        let kernel = self.x.numbers.of("accumulate_rows");
        Call { kernel, grid: (self.count, 1), threads: ROW_BLOCK, args }
    }
}

/// What goes where, for [`AccumulateRows`]: every row of a sum is written by one block, which adds in
/// the order of its terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowSpans {
    /// Terms, by the row that they are for and their own order.
    pub order: Vec<u32>,
    /// Of each row that has terms: which it is, and where its terms begin and end in `order`.
    pub spans: Vec<[u32; 3]>,
}

impl RowSpans {
    /// Term i is for row `rows[i]`.
    #[must_use]
    pub fn of(rows: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_by_key(|term| rows[*term as usize]);
        let mut spans = Vec::new();
        let mut first = 0;
        for terms in order.chunk_by(|a, b| rows[*a as usize] == rows[*b as usize]) {
            let end = first + terms.len() as u32;
            spans.push([rows[terms[0] as usize], first, end]);
            first = end;
        }
        Self { order, spans }
    }
}

/// One f64 a block into `sums`, which has room for [`Call::grid`].
#[must_use]
pub fn sum_of_squares<P>(sums: P, x: Piece<P>) -> Call<P> {
    let args = vec![Arg::Memory(sums), Arg::Memory(x.start), Arg::U64(x.count)];
    flat("sum_of_squares".to_owned(), x.count, args)
}

/// `x *= by`, f32.
#[must_use]
pub fn scale<P>(x: Piece<P>, by: f32) -> Call<P> {
    let args = vec![Arg::Memory(x.start), Arg::U64(x.count), Arg::F32(by)];
    flat("scale".to_owned(), x.count, args)
}

/// One update of a variable, all f32.
#[derive(Clone, Copy, Debug)]
pub struct AdamW<P> {
    pub weights: Piece<P>,
    pub first: P,
    pub second: P,
    pub gradients: P,
    /// β and 1 − β of both moments.
    pub betas: [f32; 4],
    /// 1 / (1 − βᵗ) of both moments.
    pub scales: [f32; 2],
    pub rate: f32,
    /// Learning rate × weight decay.
    pub decay: f32,
    pub eps: f32,
}

impl<P> AdamW<P> {
    #[must_use]
    pub fn call(self) -> Call<P> {
        let count = self.weights.count;
        let mut args = vec![
            Arg::Memory(self.weights.start),
            Arg::Memory(self.first),
            Arg::Memory(self.second),
            Arg::Memory(self.gradients),
            Arg::U64(count),
        ];
        args.extend(self.betas.map(Arg::F32));
        args.extend(self.scales.map(Arg::F32));
        args.extend([Arg::F32(self.rate), Arg::F32(self.decay), Arg::F32(self.eps)]);
        flat("adamw".to_owned(), count, args)
    }
}

/// A pass over `count` numbers.
pub(super) fn flat<P>(kernel: String, count: u64, args: Vec<Arg<P>>) -> Call<P> {
    let blocks = count.div_ceil(u64::from(ROW_BLOCK)).clamp(1, FLAT_BLOCKS_MAX) as u32;
    Call { kernel, grid: (blocks, 1), threads: ROW_BLOCK, args }
}
