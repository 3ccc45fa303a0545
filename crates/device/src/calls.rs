//! How each kernel is called: its name, how many threads, its arguments in their order. Generic over
//! what stands for memory, so that the tests run the very calls that CUDA gets. What the kernels
//! compute is written beside them, in `kernels/`.

mod flat;

use flat::flat;
pub use flat::{AccumulateRows, AdamW, RowSpans, accumulate, scale, sum_of_squares};

/// Threads of a block that adds up a row.
const ROW_BLOCK: u32 = 256;
/// Threads of an attention block: four warps, each with its own keys.
const ATTENTION_BLOCK: u32 = 128;
/// Threads of a block that draws one token; a power of two, at most 1,024.
pub const DRAW_BLOCK: u32 = 1024;

/// Largest head that the attention kernels hold.
const HEAD_DIM_MAX: usize = 256;

/// Element types of the kernels; they compute in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    F32,
    Bf16,
    F16,
}

impl Numbers {
    fn of(self, kernel: &str) -> String {
        let name = match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        };
        format!("{kernel}_{name}")
    }
}

/// One argument of a kernel; `P` stands for memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg<P> {
    Memory(P),
    /// A kernel that takes memory or none.
    Nothing,
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Call<P> {
    pub kernel: String,
    pub grid: (u32, u32),
    pub threads: u32,
    pub args: Vec<Arg<P>>,
}

/// A flat buffer, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece<P> {
    pub start: P,
    pub count: u64,
}

/// A flat buffer and the type of its elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elements<P> {
    pub start: P,
    pub numbers: Numbers,
}

/// `y` and `x` `[rows, width]`, `weight` f32 `[width]`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<P> {
    pub y: P,
    pub x: P,
    pub weight: P,
    pub rows: u32,
    pub width: u32,
    pub eps: f32,
    pub numbers: Numbers,
}

impl<P> RmsNorm<P> {
    #[must_use]
    pub fn call(self) -> Call<P> {
        let args = vec![
            Arg::Memory(self.y),
            Arg::Memory(self.x),
            Arg::Memory(self.weight),
            Arg::U32(self.width),
            Arg::F32(self.eps),
        ];
        Call { kernel: self.numbers.of("rms_norm"), grid: (self.rows, 1), threads: ROW_BLOCK, args }
    }
}

/// SwiGLU, or GeGLU by tanh: `y` `[rows, width]`; rows of gates and ups begin `gates_width` and
/// `ups_width` numbers apart.
#[derive(Clone, Copy, Debug)]
pub struct Gated<P> {
    pub y: P,
    pub gates: P,
    pub ups: P,
    pub rows: u64,
    pub width: u32,
    pub gates_width: u32,
    pub ups_width: u32,
    pub gelu: bool,
    pub numbers: Numbers,
}

impl<P> Gated<P> {
    #[must_use]
    pub fn call(self) -> Call<P> {
        let elements = self.rows * u64::from(self.width);
        let args = vec![
            Arg::Memory(self.y),
            Arg::Memory(self.gates),
            Arg::Memory(self.ups),
            Arg::U64(elements),
            Arg::U32(self.width),
            Arg::U32(self.gates_width),
            Arg::U32(self.ups_width),
            Arg::U32(u32::from(self.gelu)),
        ];
        let kernel = self.numbers.of("gated");
        // Elementwise: no block adds anything up, so as many as there is work for.
        let blocks = elements.div_ceil(u64::from(ROW_BLOCK)).clamp(1, 1 << 20) as u32;
        Call { kernel, grid: (blocks, 1), threads: ROW_BLOCK, args }
    }
}

/// What every attention kernel must know of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Rows between the keys of one head and of the next.
    pub head_rows: u32,
    /// How many keys a query sees, its own included; 0: all.
    pub window: u32,
    pub scale: f32,
    pub numbers: Numbers,
}

impl AttentionShape {
    /// Whether the kernels hold heads of this size.
    #[must_use]
    pub fn fits(head_dim: usize) -> bool {
        head_dim <= HEAD_DIM_MAX
    }
}

/// Turns keys by their positions and lays them and their values down in rows.
#[derive(Clone, Copy, Debug)]
pub struct StoreKeys<P> {
    pub keys: P,
    pub values: P,
    /// Rows begin `k_width` and `v_width` numbers apart.
    pub k: P,
    pub k_width: u32,
    pub v: P,
    pub v_width: u32,
    /// u32 `[tokens, 2]`: the row of head 0, the position.
    pub tokens: P,
    pub count: u32,
    /// f32 `[positions, hd]`: cosines, then sines.
    pub angles: P,
}

impl<P> StoreKeys<P> {
    #[must_use]
    pub fn call(self, shape: AttentionShape) -> Call<P> {
        let args = vec![
            Arg::Memory(self.keys),
            Arg::Memory(self.values),
            Arg::Memory(self.k),
            Arg::U32(self.k_width),
            Arg::Memory(self.v),
            Arg::U32(self.v_width),
            Arg::Memory(self.tokens),
            Arg::Memory(self.angles),
            Arg::U32(shape.kv_heads),
            Arg::U32(shape.head_dim),
            Arg::U32(shape.head_rows),
        ];
        let kernel = shape.numbers.of("attention_store");
        Call { kernel, grid: (self.count, 1), threads: ATTENTION_BLOCK, args }
    }
}

/// `out` `[readers, H·hd]`.
#[derive(Clone, Copy, Debug)]
pub struct Attend<P> {
    pub out: P,
    /// Rows begin `q_width` numbers apart.
    pub q: P,
    pub q_width: u32,
    /// u32 `[readers, 3]`: the row of `q`, the row of its text's first key, the position.
    pub readers: P,
    pub count: u32,
    pub keys: P,
    pub values: P,
    pub angles: P,
}

impl<P> Attend<P> {
    #[must_use]
    pub fn call(self, shape: AttentionShape) -> Call<P> {
        let args = vec![
            Arg::Memory(self.out),
            Arg::Memory(self.q),
            Arg::U32(self.q_width),
            Arg::Memory(self.readers),
            Arg::Memory(self.keys),
            Arg::Memory(self.values),
            Arg::Memory(self.angles),
            Arg::U32(shape.kv_heads),
            Arg::U32(shape.head_dim),
            Arg::U32(shape.head_rows),
            Arg::U32(shape.window),
            Arg::F32(shape.scale),
        ];
        let kernel = shape.numbers.of("attention");
        Call { kernel, grid: (self.count, shape.heads), threads: ATTENTION_BLOCK, args }
    }
}

/// The gradient of the queries, and what that of the keys needs of them. All are `[readers, H·hd]`
/// but `saved`, `[readers, H, 2]`; `turned` and `saved` are f32.
#[derive(Clone, Copy, Debug)]
pub struct AttendBackwardQueries<P> {
    pub grad_q: P,
    pub turned: P,
    pub saved: P,
    pub q: P,
    pub res: P,
    pub grad: P,
    pub readers: P,
    pub count: u32,
    pub keys: P,
    pub values: P,
    pub angles: P,
}

impl<P> AttendBackwardQueries<P> {
    #[must_use]
    pub fn call(self, shape: AttentionShape) -> Call<P> {
        let args = vec![
            Arg::Memory(self.grad_q),
            Arg::Memory(self.turned),
            Arg::Memory(self.saved),
            Arg::Memory(self.q),
            Arg::Memory(self.res),
            Arg::Memory(self.grad),
            Arg::Memory(self.readers),
            Arg::Memory(self.keys),
            Arg::Memory(self.values),
            Arg::Memory(self.angles),
            Arg::U32(shape.kv_heads),
            Arg::U32(shape.head_dim),
            Arg::U32(shape.head_rows),
            Arg::U32(shape.window),
            Arg::F32(shape.scale),
        ];
        let kernel = shape.numbers.of("attention_backward_q");
        Call { kernel, grid: (self.count, shape.heads), threads: ATTENTION_BLOCK, args }
    }
}

/// The gradients of keys and values, `[tokens, KH·hd]`.
#[derive(Clone, Copy, Debug)]
pub struct AttendBackwardKeys<P> {
    pub grad_k: P,
    pub grad_v: P,
    pub turned: P,
    pub saved: P,
    pub grad: P,
    /// u32 `[tokens, 3]`: from where to where in `order` are the readers that see it, its position.
    pub queries: P,
    /// u32 `[readers]`: the readers by text and position.
    pub order: P,
    pub count: u32,
    pub keys: P,
    pub values: P,
    pub angles: P,
}

impl<P> AttendBackwardKeys<P> {
    #[must_use]
    pub fn call(self, shape: AttentionShape) -> Call<P> {
        let args = vec![
            Arg::Memory(self.grad_k),
            Arg::Memory(self.grad_v),
            Arg::Memory(self.turned),
            Arg::Memory(self.saved),
            Arg::Memory(self.grad),
            Arg::Memory(self.queries),
            Arg::Memory(self.order),
            Arg::Memory(self.keys),
            Arg::Memory(self.values),
            Arg::Memory(self.angles),
            Arg::U32(shape.heads),
            Arg::U32(shape.head_dim),
        ];
        let kernel = shape.numbers.of("attention_backward_kv");
        Call { kernel, grid: (self.count, shape.kv_heads), threads: ATTENTION_BLOCK, args }
    }
}

/// Draws or scores one token for each of `count` draws.
#[derive(Clone, Copy, Debug)]
pub struct DrawTokens<P> {
    /// `[count]` of (u32 token, f32 log-probability, u32 fault).
    pub drawn: P,
    /// f32 `[n, width]`.
    pub logits: P,
    /// `[count]` of (f64 u, u32 row, u32 token to score or `u32::MAX`).
    pub draws: P,
    pub count: u32,
    /// u32 bits by id.
    pub banned: Option<P>,
    /// u32, the first stands for all.
    pub stops: Option<P>,
    pub stop_count: u32,
    pub width: u32,
    /// Ids from here on are padding.
    pub vocab: u32,
    pub temperature: f64,
    /// [`DRAW_BLOCK`], but in tests.
    pub threads: u32,
}

impl<P> DrawTokens<P> {
    #[must_use]
    pub fn call(self) -> Call<P> {
        let optional = |memory: Option<P>| memory.map_or(Arg::Nothing, Arg::Memory);
        let args = vec![
            Arg::Memory(self.drawn),
            Arg::Memory(self.logits),
            Arg::Memory(self.draws),
            optional(self.banned),
            optional(self.stops),
            Arg::U32(self.stop_count),
            Arg::U32(self.width),
            Arg::U32(self.vocab),
            Arg::F64(self.temperature),
        ];
        let kernel = "draw_tokens".to_owned();
        Call { kernel, grid: (self.count, 1), threads: self.threads, args }
    }
}

/// The gradient of log-probabilities towards the logits, in place.
#[derive(Clone, Copy, Debug)]
pub struct ScoreSlopes<P> {
    /// f32 `[rows, width]`.
    pub logits: P,
    /// u32 `[rows]`.
    pub targets: P,
    /// f32 `[rows]`.
    pub slopes: P,
    /// u32; a target among two or more counts the probability of all.
    pub stops: Option<P>,
    pub stop_count: u32,
    pub rows: u32,
    pub width: u32,
    /// Ids from here on are padding.
    pub vocab: u32,
    pub temperature: f64,
    /// [`DRAW_BLOCK`], but in tests.
    pub threads: u32,
}

impl<P> ScoreSlopes<P> {
    #[must_use]
    pub fn call(self) -> Call<P> {
        let args = vec![
            Arg::Memory(self.logits),
            Arg::Memory(self.targets),
            Arg::Memory(self.slopes),
            self.stops.map_or(Arg::Nothing, Arg::Memory),
            Arg::U32(self.stop_count),
            Arg::U32(self.width),
            Arg::U32(self.vocab),
            Arg::F64(self.temperature),
        ];
        let kernel = "score_slopes".to_owned();
        Call { kernel, grid: (self.rows, 1), threads: self.threads, args }
    }
}

/// Copies the start of one row of a cache `[rows, KH, capacity, hd]` to another; sizes and places
/// are in words of 4 bytes.
#[derive(Clone, Copy, Debug)]
pub struct CopyRow<P> {
    pub cache: P,
    pub from: u64,
    pub to: u64,
    pub kv_heads: u32,
    /// Between one head and the next.
    pub head_words: u64,
    pub words: u64,
}

impl<P> CopyRow<P> {
    #[must_use]
    pub fn call(self) -> Call<P> {
        let args = vec![
            Arg::Memory(self.cache),
            Arg::U64(self.from),
            Arg::U64(self.to),
            Arg::U64(self.head_words),
            Arg::U64(self.words),
        ];
        let mut call = flat("copy_row".to_owned(), self.words, args);
        call.grid.1 = self.kv_heads;
        call
    }
}
