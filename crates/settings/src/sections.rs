//! The sections of the schema. Names that other texts rely on are the design's.

use serde::{Deserialize, Serialize};

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }
    };
}

// After the macros, which they use.
mod checkpoint;
mod connections;
mod coordinator;
mod run;
mod store;
mod track;
mod weights;

pub use checkpoint::{Checkpoint, NoRoom};
pub use connections::{Admin, Limits, Network, Security};
pub use coordinator::Coordinator;
pub use run::{Resume, Run};
pub use store::{Store, StoreKind, StorePlace};
pub use track::Track;

choice! {
    /// What the learner minimises.
    Objective {
        /// Clipped surrogate with group advantages (GRPO).
        Grpo,
        /// Log-likelihood of successful rollouts, failures discarded (REINFORCE).
        Reinforce,
        /// Negative log-likelihood of worked solutions.
        Sft,
    }
}

choice! {
    /// What the importance ratio of `grpo` is taken over.
    Ratio {
        /// Each token by itself.
        Token,
        /// The mean over a rollout's strong tokens (GSPO).
        Sequence,
    }
}

choice! {
    /// What the learning rate does after the warm-up.
    Decay {
        /// It stays.
        Constant,
        /// Half a cosine down to `learning_rate_floor` × `learning_rate` at `train.steps`.
        Cosine,
    }
}

section! {
    /// The learner's steps.
    Train {
        objective: Objective = Objective::Grpo,
        steps: u32 = 80,
        /// Groups of one step (for `sft`: examples).
        problems_per_step: u32 = 8,
        samples_per_problem: u32 = 8,
        /// A group that teaches nothing (all samples earn the same) is dealt again, once, with
        /// another problem: a step writes up to twice its groups.
        refill: bool = false,
        learning_rate: f64 = 5e-4,
        /// Linear warm-up.
        warmup_steps: u32 = 10,
        decay: Decay = Decay::Cosine,
        learning_rate_floor: f64 = 0.05,
        weight_decay: f64 = 0.0,
        beta1: f64 = 0.9,
        beta2: f64 = 0.999,
        /// Coefficient of the k3 estimate of the divergence from the run's start.
        kl: f64 = 0.05,
        ratio: Ratio = Ratio::Token,
        clip_low: f64 = 0.2,
        clip_high: f64 = 0.2,
        /// Cap of the importance ratio where rollouts may be stale.
        ratio_cap: f64 = 2.0,
        grad_norm_max: f64 = 1.0,
        /// Padded tokens of one forward; a step is split into as many as it needs.
        micro_batch_tokens: u32 = 4096,
        /// Positions whose logits over the whole vocabulary are held at once.
        logprob_chunk_tokens: u32 = 256,
        /// Only what enters each block of the model is kept for the backward pass, which computes
        /// the rest again: less memory, a third more time.
        recompute_blocks: bool = false,
        /// Each rank keeps the moments of its part of the weights only, and updates that part.
        shard_optimizer: bool = false,
        lora: Lora = Lora::default(),
    }
}

section! {
    /// Low-rank adapters in the place of the strong model's weights.
    Lora {
        /// 0: all weights are trained.
        rank: u32 = 0,
        /// The adapters' change is weighed by `alpha` / `rank`.
        alpha: f64 = 32.0,
        /// Linear layers that get one.
        targets: Vec<String> = LORA_TARGETS.map(str::to_owned).to_vec(),
    }
}

/// What `train.lora.targets` may name.
pub const LORA_TARGETS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

section! {
    /// Who writes what in training.
    Handoff {
        /// token, word, line, sentence, chunk, markov or alternate:UNIT.
        unit: String = "word".to_owned(),
        probability: f64 = 0.25,
        /// Tokens without a boundary that force a redraw (unit `word` only).
        max_gap: u32 = 32,
        chunk_tokens: u32 = 8,
        /// Unit `markov`: the probability that the author is kept without a draw.
        stay: f64 = 0.8,
        weak_may_end: bool = true,
    }
}

section! {
    /// How training samples.
    SamplingSettings {
        temperature: f32 = 1.0,
        top_p: f32 = 1.0,
        max_tokens: u32 = 30,
        /// A text ends with the token that completes one of these, and is graded without it.
        stop_texts: Vec<String> = Vec::new(),
    }
}

section! {
    /// How a question becomes a prompt.
    Prompt {
        /// `{question}` stands for the question; or the name of a template (`TEMPLATES`).
        template: String = "{question}".to_owned(),
        /// Worked examples before the question; 0: as many as a named template has.
        few_shot: u32 = 0,
        /// Rendered by the model's own chat template, the examples as earlier turns.
        chat: bool = false,
        /// The system's message (`chat`).
        system: String = String::new(),
        /// What a chat template that asks for today is told, so that prompts stay the same.
        date: String = "2024-07-26".to_owned(),
        /// Off: a chat template that knows `enable_thinking`, as Qwen3's does, is told `false`.
        thinking: bool = true,
    }
}

section! {
    /// One of the two models.
    Model {
        /// A Hugging Face directory, `builtin:NAME`, or `fresh:NAME` (seeded random weights).
        model: String = String::new(),
        prompt: Prompt = Prompt::default(),
    }
}

impl Model {
    pub(crate) fn named(model: &str) -> Self {
        Self { model: model.to_owned(), prompt: Prompt::default() }
    }
}

choice! {
    /// Where problems come from.
    DataSource {
        Miniature,
        Gsm8k,
    }
}

choice! {
    /// How worked solutions are written.
    SolutionStyle {
        /// As published, with calculator annotations (`<<48/2=24>>`).
        Annotated,
        /// Without them.
        Plain,
    }
}

section! {
    /// The problems.
    Data {
        source: DataSource = DataSource::Miniature,
        /// A directory with `train.jsonl` (source `gsm8k`).
        path: String = String::new(),
        /// Problems dealt together, in an order drawn once per epoch.
        shard_problems: u32 = 256,
        /// Miniature solutions for `sft`: the share of lines in jargon.
        jargon_share: f64 = 0.8,
        /// GSM8K solutions.
        style: SolutionStyle = SolutionStyle::Annotated,
        /// Style `annotated`: the share of solutions that keep their annotations, chosen by the
        /// question.
        annotated_share: f64 = 1.0,
        /// Of the examples of few-shot prompts; 0: the first ones of the training file.
        shots_seed: u64 = 0,
    }
}

choice! {
    /// What a rollout without an end earns.
    TruncatedReward {
        Zero,
        /// It is left out of the group's mean and of the loss.
        Mask,
    }
}

choice! {
    /// How an answer is read (source `gsm8k`).
    Grader {
        /// Numeric and tolerant, after `####`.
        Own,
        /// lm-evaluation-harness's `strict-match`.
        LmEvalStrict,
        /// lm-evaluation-harness's `flexible-extract`.
        LmEvalFlexible,
        /// verl's `strict`.
        VerlStrict,
        /// verl's `flexible`.
        VerlFlexible,
    }
}

section! {
    /// The reward.
    Reward {
        grader: Grader = Grader::Own,
        /// A control: rewards are permuted over the whole step.
        shuffle: bool = false,
        truncated: TruncatedReward = TruncatedReward::Zero,
    }
}

choice! {
    /// Which problems an evaluation takes.
    EvalSplit {
        /// Training problems that are left out of training.
        HeldOut,
        /// The test file, which nothing opens but `coordinator eval` when asked for by name.
        Test,
    }
}

section! {
    /// Evaluation before and after training.
    Eval {
        enabled: bool = true,
        split: EvalSplit = EvalSplit::HeldOut,
        problems: u32 = 1000,
        /// Rollouts of one problem in each arm; the greedy one has one.
        samples: u32 = 1,
        /// The k of pass@k, each at most `samples`.
        pass_at: Vec<u32> = vec![1],
        seed: u64 = 17,
        schedules: Vec<String> = vec!["token:0.25".to_owned(), "line:0.5".to_owned()],
        /// A smaller evaluation every so many steps; 0: none.
        every_steps: u32 = 0,
        /// Problems of the smaller evaluation, which has one rollout of each.
        every_problems: u32 = 100,
    }
}

section! {
    /// What the final weights must reach for `sft` to exit 0; bounds of 0 and 1 always hold.
    Gates {
        /// Held-out problems; 0: no gates.
        problems: u32 = 0,
        /// Sampled solo accuracy with the jargon tokens banned.
        plain_solo_min: f64 = 0.0,
        /// Sampled solo accuracy.
        solo_min: f64 = 0.0,
        solo_max: f64 = 1.0,
        jargon_min: f64 = 0.0,
        jargon_max: f64 = 1.0,
    }
}

section! {
    /// `coordinator recipe gsm8k-jargon`.
    Recipe {
        /// Of each supervised fine-tuning; 0: both models are taken as they are.
        sft_steps: u32 = 200,
        sft_examples_per_step: u32 = 32,
        sft_learning_rate: f64 = 2e-5,
        /// Of the solutions that the strong model imitates, those with calculator annotations.
        annotated_share: f64 = 0.75,
        /// Held-out problems of the probe.
        probe_problems: u32 = 256,
    }
}

section! {
    /// How old a rollout may be.
    Staleness {
        /// Versions behind the step that trains on it; 0: synchronous.
        max_versions: u32 = 1,
    }
}

section! {
    /// Stopping.
    Shutdown {
        /// From the wish to stop to the last SIGKILL; the programs that `launch` starts get five
        /// eighths of it to end by themselves.
        grace_seconds: f64 = 8.0,
    }
}

choice! {
    /// Where numbers are computed.
    DeviceChoice {
        /// On CUDA where the build has it and a device is usable, else on the CPU.
        Auto,
        Cpu,
        Cuda,
    }
}

choice! {
    /// What forward and backward passes are computed in; the CPU has only `f32`.
    Precision {
        /// `bf16` on a GPU, which needs compute capability 8.0, `f32` on the CPU.
        Auto,
        F32,
        Bf16,
        /// Without scaling of the loss: small gradients are lost.
        F16,
    }
}

impl Precision {
    /// `Auto` resolved.
    #[must_use]
    pub fn on(self, gpu: bool) -> Self {
        match (self, gpu) {
            (Self::Auto, true) => Self::Bf16,
            (Self::Auto, false) => Self::F32,
            (chosen, _) => chosen,
        }
    }
}

section! {
    /// The device of every program that has a model.
    Compute {
        /// `CUDA_VISIBLE_DEVICES` says which CUDA device; a process uses one.
        device: DeviceChoice = DeviceChoice::Auto,
        /// Masters, moments, sums of gradients and log-probabilities are f32 whatever it is.
        precision: Precision = Precision::F32,
    }
}

choice! {
    /// What becomes of the strong model's cache of rollouts in hand when new weights are in place.
    CacheOnSwap {
        /// It is dropped, and their texts are read again by the new weights.
        Recompute,
        /// The new weights go on from what the old ones have read: cheaper, and what they then sample
        /// is the law of no one version, so that importance ratios are further from 1.
        Keep,
    }
}

section! {
    /// The actor.
    Actor {
        /// Rollouts in hand at once.
        slots: u32 = 64,
        /// Tokens that one slot's cache holds, prompt included.
        slot_tokens: u32 = 128,
        /// Tokens of one forward; what a slot must read beyond that it reads in later ones.
        batch_tokens: u32 = 8192,
        cache_on_swap: CacheOnSwap = CacheOnSwap::Recompute,
        /// One request to the weak server.
        span_deadline_ms: u32 = 10_000,
        /// Repeats of one request before its group is given up.
        span_retries_max: u32 = 5,
        /// Between two asks for work while nothing has changed since an empty answer.
        lease_wait_ms: u32 = 500,
        /// Messages to the weak server that wait to be sent.
        weak_outbox_messages: u32 = 64,
        /// Groups that wait to be sent to the learner.
        uplink_groups: u32 = 64,
    }
}

section! {
    /// The learner.
    Learner {
        listen: String = "127.0.0.1:0".to_owned(),
        /// Groups received and not yet trained.
        inbox_groups: u32 = 64,
        /// Rollouts of one step that are written to `rollouts/`.
        sampled_rollouts: u32 = 8,
        /// Where the previous rank reaches this one, for sums over several ranks.
        ring_listen: String = "127.0.0.1:0".to_owned(),
        /// Sums travel in plaintext even where there are credentials: for a network that nobody else
        /// is on.
        ring_plaintext: bool = false,
        /// All ranks must have found each other by then, once all are known.
        ring_join_timeout_ms: u32 = 60_000,
        /// One sum over all ranks, from the first that is ready for it to the last: more than the
        /// difference of their forward and backward passes. A rank that has died is noticed at once.
        ring_call_timeout_ms: u32 = 600_000,
    }
}

section! {
    /// The weak server.
    WeakServer {
        listen: String = "127.0.0.1:0".to_owned(),
        /// KV sessions kept; the least recently used goes first.
        sessions: u32 = 256,
        /// Tokens that one session holds, prompt included.
        session_tokens: u32 = 128,
        /// Rows of one forward.
        batch_rows: u32 = 64,
        /// Tokens of one forward at most; what a session must read beyond that it reads in later ones. Where
        /// so many would take more than an eighth of `actor.span_deadline_ms`, fewer are taken, down to
        /// `batch_rows`.
        batch_tokens: u32 = 2048,
        /// Requests that wait; more are answered `overloaded`.
        queue_requests: u32 = 1024,
        /// Replies that wait for one actor to read them.
        reply_messages: u32 = 256,
        /// Actors' streams that may be open at once; more are refused as `overloaded`.
        streams: u32 = 256,
    }
}

section! {
    /// Which process gets which GPU.
    Placement {
        /// Memory of each GPU in MiB, like `24564,24564` or `8x81559`; empty: what the driver says.
        gpus: String = String::new(),
        /// What the driver takes on a GPU for each process.
        context_mib: u32 = 512,
        /// The share of each GPU that is left free.
        reserve_share: f64 = 0.03,
        /// The driver's program must have answered by then.
        query_timeout_ms: u32 = 10_000,
    }
}

mod log;

pub use log::{Log, LogFormat};
pub use weights::Weights;
