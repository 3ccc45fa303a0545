//! What each kind of process holds on its GPU, in bytes, by formula. The formulas stand at the
//! functions; fitting them together is `place`'s.

use std::path::{Path, PathBuf};

use anyhow::Context;
use proto::Role;
use settings::{Precision, Settings};

use super::shape::Shape;
use super::{GIB, MIB, MemberCounts, gguf};
use crate::models::built_in;

/// Bytes of one f32.
const F32: u64 = 4;

/// What of a process lies on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(Vec<(&'static str, u64)>);

impl Parts {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }

    /// In GiB.
    #[must_use]
    pub fn describe(&self) -> String {
        let parts = self.0.iter().filter(|(_, bytes)| *bytes > 0);
        let parts = parts.map(|(name, bytes)| format!("{name} {:.1}", *bytes as f64 / GIB));
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// A model as it lies on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    pub shape: Shape,
    /// Of a quantised file; `None`: as large as its parameters.
    pub file_bytes: Option<u64>,
}

/// How the learner trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods {
    /// Forward and backward in 16 bits, with masters in f32.
    pub half: bool,
    /// A second set of weights for the divergence from the run's start.
    pub reference: bool,
    pub recompute_blocks: bool,
    /// Over so many ranks; 1: not.
    pub optimizer_shards: u64,
    /// Rank of adapters; 0: all weights are trained.
    pub lora_rank: u64,
}

/// Everything that one process of each role holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub learner: Parts,
    pub actor: Parts,
    pub weak_server: Parts,
}

impl Methods {
    #[must_use]
    pub fn of_settings(settings: &Settings, learners: u32) -> Self {
        let train = &settings.train;
        Self {
            half: settings.compute.precision.on(true) != Precision::F32,
            reference: train.kl > 0.0,
            recompute_blocks: train.recompute_blocks,
            optimizer_shards: if train.shard_optimizer { u64::from(learners) } else { 1 },
            lora_rank: u64::from(train.lora.rank),
        }
    }

    fn width(&self) -> u64 {
        if self.half { 2 } else { F32 }
    }
}

impl Demand {
    #[must_use]
    pub fn of(&self, role: Role) -> &Parts {
        match role {
            Role::Learner => &self.learner,
            Role::Actor => &self.actor,
            Role::WeakServer => &self.weak_server,
        }
    }

    /// # Errors
    /// A model whose sizes cannot be read; the weak one is not looked at where nothing serves it.
    pub fn of_settings(settings: &Settings, counts: MemberCounts) -> anyhow::Result<Self> {
        let strong = model(&settings.strong.model).context("strong.model")?;
        let weak = match counts.weak_servers {
            0 => strong,
            _ => model(settings.weak_model()).context("weak.model")?,
        };
        Ok(Self::new(settings, strong, weak, Methods::of_settings(settings, counts.learners)))
    }

    /// The whole of it; every process also has the driver's context.
    #[must_use]
    pub fn new(settings: &Settings, strong: Model, weak: Model, methods: Methods) -> Self {
        let context = ("context", u64::from(settings.placement.context_mib) * MIB);
        let width = methods.width();
        let mut learner = learner(settings, &strong.shape, methods);
        let actor = &settings.actor;
        // While new weights arrive the old ones still write.
        let weights = 2 * strong.shape.parameters() * width;
        let tokens = u64::from(actor.slots) * u64::from(actor.slot_tokens);
        let logits = 2 * u64::from(actor.slots) * strong.shape.vocab * F32;
        let mut actor = Parts(vec![
            ("weights old and new", weights),
            ("cache", tokens * strong.shape.cached() * width),
            ("logits", logits),
        ]);
        let server = &settings.weak_server;
        let tokens = u64::from(server.sessions) * u64::from(server.session_tokens);
        let weights = weak.file_bytes.unwrap_or(weak.shape.parameters() * width);
        let mut weak_server = Parts(vec![
            ("weights", weights),
            ("cache", tokens * weak.shape.cached() * width),
            ("logits", 2 * u64::from(server.batch_rows) * weak.shape.vocab * F32),
        ]);
        for parts in [&mut learner, &mut actor, &mut weak_server] {
            parts.0.push(context);
        }
        Self { learner, actor, weak_server }
    }
}

/// With P parameters, T trained ones (all, or the adapters' own beside them), w bytes a computed number
/// and S shards of the optimiser:
/// f32 masters 4·P on every rank, and 4·T of adapters; where w is 2 their rounded copies 2·P; moments
/// 8·T / S; sums of gradients 4·T, and as much again for a micro-batch's own where they do not come block
/// by block; reference 4·P, which adapters need not have since the base is one. Shards are exchanged
/// through 4·T / S more, while the copies of 2·P are not there.
/// By blocks, without adapters and shards, that is 18 bytes a parameter in 16 bits and 16 in f32. Of the
/// base beside adapters there are neither masters nor copies: w·P.
///
/// Activations of N = `train.micro_batch_tokens` tokens over L layers of a numbers a token and
/// layer (`Shape::activations`): w·N·(L + 1)·a, the one for the gradients on their way; by blocks
/// w·N·(L·hidden + 2·a). Logits and their gradient: 8 bytes for each of
/// `train.logprob_chunk_tokens` × vocabulary.
fn learner(settings: &Settings, shape: &Shape, methods: Methods) -> Parts {
    let (width, parameters) = (methods.width(), shape.parameters());
    let shards = methods.optimizer_shards.max(1);
    let adapters = methods.lora_rank > 0;
    let trained = if adapters { adapter_parameters(shape, methods.lora_rank) } else { parameters };
    let (base, rounded) = match (adapters, methods.half) {
        (true, _) => (width, 0),
        (false, true) => (F32, width),
        (false, false) => (F32, 0),
    };
    let own = if adapters { F32 * trained } else { 0 };
    let sums = if methods.recompute_blocks { 1 } else { 2 };
    let exchanged = if shards > 1 { F32 * trained / shards } else { 0 };
    let reference = methods.reference && !adapters;
    let tokens = u64::from(settings.train.micro_batch_tokens);
    let activations = match methods.recompute_blocks {
        true => shape.layers * shape.hidden + 2 * shape.activations(),
        false => (shape.layers + 1) * shape.activations(),
    };
    let chunk = u64::from(settings.train.logprob_chunk_tokens);
    Parts(vec![
        ("masters", base * parameters + own),
        ("rounded", rounded * parameters),
        ("moments", 2 * F32 * trained / shards),
        ("gradients", sums * F32 * trained),
        ("exchange", exchanged.saturating_sub(rounded * parameters)),
        ("reference", if reference { F32 * parameters } else { 0 }),
        ("activations", width * tokens * activations),
        ("logits", 2 * F32 * chunk * shape.vocab),
    ])
}

/// Two thin matrices beside each of the seven linear layers of a block.
fn adapter_parameters(shape: &Shape, rank: u64) -> u64 {
    let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let attention = 2 * (shape.hidden + q) + 2 * (shape.hidden + kv);
    rank * shape.layers * (attention + 3 * (shape.hidden + shape.intermediate))
}

/// What a model's name in the settings stands for.
fn model(name: &str) -> anyhow::Result<Model> {
    if let Some(role) = built_in(name)? {
        let shape = Shape::parse(&miniature::config_json(role), name)?;
        return Ok(Model { shape, file_bytes: None });
    }
    let path = PathBuf::from(name);
    if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
        let bytes = std::fs::metadata(&path).with_context(|| missing(&path))?.len();
        return Ok(Model { shape: gguf::shape(&path)?, file_bytes: Some(bytes) });
    }
    let path = path.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| missing(&path))?;
    Ok(Model { shape: Shape::parse(&text, &path.display().to_string())?, file_bytes: None })
}

fn missing(path: &Path) -> String {
    let path = path.display();
    format!("cannot read {path}: fetch the model with `coordinator model get OWNER/NAME`")
}
