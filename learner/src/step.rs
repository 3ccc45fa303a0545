//! One optimiser step: forward, loss and backward by micro-batches, sums over all ranks, clipping,
//! AdamW. Which rollouts make a step and what becomes of the new weights is decided outside.

mod pass;
mod share;
mod start;
mod update;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use candle_core::{DType, Tensor};
use grpo::{
    AdamW, AdamWSettings, Decay, Example, Gradients, LearningRate, LossInputs, LossSettings,
    OptimizerState, Parameters, PolicyBatch, RatioLevel, RawStats, SftBatch, plan_micro_batches,
    policy_loss, sft_loss, strong_tokens,
};
use member::NotFinite;
use model::{Decoder, LoraSettings, ModelFiles, Scoring, Tensors, Texts, to_safetensors};
use settings::{Lora, Objective, Ratio, Settings, Train};
use types::{Rollout, TokenId};

use crate::checkpoint::{Checkpoint, Contents, LoraState, State};
use crate::collective::{Collective, shard};
use pass::Pass;
use start::Start;
use update::Update;

/// Merged weights differ by no more between devices, which only sum a few products in another order.
const MERGED_OFF_MAX: f32 = 1e-4;

/// The strong model in training. One thread owns it.
pub struct Trainer {
    policy: Decoder,
    /// The run's start, where the loss has a KL term.
    reference: Option<Decoder>,
    /// Whose adapters are trained in the place of the weights.
    lora: Option<LoraSettings>,
    optimizer: AdamW,
    stops: Vec<TokenId>,
    rate: LearningRate,
    loss: LossSettings,
    train: Train,
    steps_taken: u32,
    /// A step was broken off between the first and the last of its weights.
    torn: Cell<bool>,
    collective: Box<dyn Collective>,
}

/// What a step did, over all ranks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Tokens in the loss; without any the weights are left as they are.
    pub tokens: u64,
    /// Per token, at the weights before the update.
    pub loss: f64,
    /// Of a policy step.
    pub stats: RawStats,
    /// Before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub forward: Duration,
    pub backward: Duration,
    /// Sums over ranks, clipping, AdamW.
    pub update: Duration,
}

impl Trainer {
    /// # Errors
    /// Weights at odds with their configuration, or loss settings out of range.
    pub fn new(
        settings: &Settings,
        start: ModelFiles,
        stops: &[TokenId],
        collective: Box<dyn Collective>,
    ) -> anyhow::Result<Self> {
        let train = settings.train.clone();
        let needs_reference = train.kl > 0.0 && train.objective != Objective::Sft;
        let lora = lora_settings(&train);
        let Start { policy, base, variables } = match &lora {
            Some(lora) => Start::adapted(start, lora, settings.seed)?,
            None => Start::whole(start, needs_reference)?,
        };
        let parameters = Parameters::new(variables)?;
        let adamw = AdamWSettings {
            beta1: train.beta1,
            beta2: train.beta2,
            weight_decay: train.weight_decay,
            ..AdamWSettings::default()
        };
        let all = parameters.elem_count();
        let part = match train.shard_optimizer {
            true => shard(all, collective.rank(), collective.world()),
            false => 0..all,
        };
        let computing = task::dtype(settings.compute.precision, policy.device());
        let loss = loss_settings(settings, computing);
        loss.check()?;
        let reference = base.filter(|_| needs_reference).map(|base| base.computing_in(computing));
        Ok(Self {
            policy: policy.computing_in(computing),
            reference,
            lora,
            optimizer: AdamW::of_part(parameters, adamw, part)?,
            stops: stops.to_vec(),
            rate: learning_rate(settings),
            loss,
            train,
            steps_taken: 0,
            torn: Cell::new(false),
            collective,
        })
    }

    /// Goes on from a checkpoint; the KL term keeps looking at the run's start.
    ///
    /// # Errors
    /// A checkpoint of another model, of other adapters, or of adapters to other weights; nothing is
    /// changed then but, at worst, some weights.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let Checkpoint { state, files, optimizer, adapters } = checkpoint;
        ensure!(
            files.config.tensors() == self.policy.config().tensors(),
            "checkpoint of step {} is of another model than this run's",
            state.step
        );
        let lora = self.lora_state();
        ensure!(
            state.lora == lora,
            "{} but the checkpoint was made with {}: set it as it was",
            LoraState::describe(lora.as_ref()),
            LoraState::describe(state.lora.as_ref()),
        );
        self.optimizer.load_state(optimizer, state.optimizer_updates)?;
        let trained = adapters.as_ref().unwrap_or(&files.tensors);
        for (name, var) in self.optimizer.parameters().iter() {
            let tensor = trained.get(name);
            let tensor = tensor.with_context(|| format!("the checkpoint lacks {name}"))?;
            var.set(&tensor.to_device(var.device())?)?;
        }
        if adapters.is_some() {
            self.check_base(&files.tensors).with_context(|| {
                format!("the adapters of step {} were trained on other weights", state.step)
            })?;
        }
        self.steps_taken = state.step;
        Ok(())
    }

    /// A checkpoint of adapters holds them merged, too.
    fn check_base(&self, checkpoint: &Tensors) -> anyhow::Result<()> {
        for (name, ours) in self.policy.merged()? {
            let theirs = checkpoint.get(&name);
            let theirs = theirs.with_context(|| format!("the checkpoint lacks {name}"))?;
            let off = (&ours - theirs.to_device(ours.device())?)?.abs()?.max_all()?;
            let off = off.to_scalar::<f32>()?;
            ensure!(
                off <= MERGED_OFF_MAX,
                "{name} is off by {off}: name the strong.model of the run's start, as it was then, and \
                 the compute.precision"
            );
        }
        Ok(())
    }

    /// The step of the present weights.
    #[must_use]
    pub fn steps_taken(&self) -> u32 {
        self.steps_taken
    }

    #[must_use]
    pub fn policy(&self) -> &Decoder {
        &self.policy
    }

    #[must_use]
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The moments of all variables. Every rank has to call it at once where each has a part only.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn optimizer_state(&mut self) -> anyhow::Result<OptimizerState> {
        if self.optimizer.part().len() == self.optimizer.parameters().elem_count() {
            return Ok(self.optimizer.state()?);
        }
        let Self { optimizer, collective, .. } = self;
        optimizer.gathered_state(|moments| collective.all_gather(moments))
    }

    /// What a checkpoint says of the adapters; `None` where all weights are trained.
    #[must_use]
    pub fn lora_state(&self) -> Option<LoraState> {
        let lora = self.lora.as_ref()?;
        let targets = lora.targets.iter().cloned().collect();
        Some(LoraState { rank: lora.rank, alpha: lora.alpha, targets })
    }

    /// What a checkpoint of the present state holds; `state` says whose it is. Every rank has to
    /// call [`Self::optimizer_state`] at once where each has a part only.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn contents(
        &mut self,
        mut state: State,
        texts: Arc<Texts>,
        weights: Arc<Vec<u8>>,
    ) -> anyhow::Result<Contents> {
        state.optimizer_updates = self.optimizer.step_count();
        state.learning_rate = self.last_learning_rate();
        state.lora = self.lora_state();
        let adapters = self.policy.adapters();
        let adapters = state.lora.is_some().then(|| to_safetensors(adapters)).transpose()?;
        Ok(Contents { state, texts, weights, optimizer: self.optimizer_state()?, adapters })
    }

    /// Of the next step.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        self.rate.lr_at(u64::from(self.steps_taken))
    }

    /// Of the step that made the present weights; 0 at the run's start.
    #[must_use]
    pub fn last_learning_rate(&self) -> f64 {
        self.steps_taken.checked_sub(1).map_or(0.0, |step| self.rate.lr_at(u64::from(step)))
    }

    pub fn collective(&mut self) -> &mut dyn Collective {
        self.collective.as_mut()
    }

    /// The weights as safetensors, adapters merged into them.
    ///
    /// # Errors
    /// A weight that is not finite, which must not leave this process.
    pub fn weights(&self) -> anyhow::Result<Vec<u8>> {
        let tensors = self.policy.merged()?;
        for (name, tensor) in &tensors {
            // A sum is finite only if all of its terms are.
            let sum = tensor.detach().sum_all()?.to_dtype(DType::F64)?;
            let sum = sum.to_scalar::<f64>()?;
            if !sum.is_finite() {
                return Err(DIVERGED).context(format!("weights of {name} are no longer finite"));
            }
        }
        Ok(model::to_safetensors(&tensors)?)
    }

    /// One step on weighted rollouts of this rank. `None` where `abandoned` said so in between;
    /// the weights are then as before.
    ///
    /// # Errors
    /// Anything that is not finite; the weights are then as before.
    pub fn policy_step(
        &mut self,
        rollouts: &[(&Rollout, f32)],
        abandoned: &dyn Fn() -> bool,
    ) -> anyhow::Result<Option<StepReport>> {
        let own: usize = rollouts.iter().map(|(rollout, w)| strong_tokens(rollout, *w)).sum();
        let count = self.global_count(own)?;
        let mut sums = Sums::new(&self.optimizer)?;
        if count > 0.0 {
            for indices in PolicyBatch::plan(rollouts, self.train.micro_batch_tokens as usize) {
                if abandoned() {
                    return Ok(None);
                }
                let chosen: Vec<(&Rollout, f32)> = indices.iter().map(|i| rollouts[*i]).collect();
                let device = self.policy.device();
                if let Some(batch) = PolicyBatch::build(&chosen, self.steps_taken, device)? {
                    let started = Instant::now();
                    let (pass, loss) = self.policy_forward(&batch, count, &mut sums.stats)?;
                    sums.backward(self.optimizer.parameters(), (pass, &loss), started)?;
                }
            }
        }
        let (rank, world) = (self.collective.rank(), self.collective.world());
        let mut stats = sums.stats.to_vec(rank, world);
        self.collective.all_reduce_sum_f64(&mut stats)?;
        sums.stats = RawStats::from_vec(&stats, world)?;
        sums.loss = sums.stats.loss;
        self.finish(sums, count).map(Some)
    }

    /// One step on worked examples: their tokens after the prompt are imitated.
    ///
    /// # Errors
    /// Anything that is not finite; the weights are then as before.
    pub fn sft_step(
        &mut self,
        examples: &[Example],
        abandoned: &dyn Fn() -> bool,
    ) -> anyhow::Result<Option<StepReport>> {
        let own: usize = examples.iter().map(Example::target_count).sum();
        let count = self.global_count(own)?;
        let mut sums = Sums::new(&self.optimizer)?;
        if count > 0.0 {
            let lengths: Vec<usize> = examples.iter().map(Example::training_len).collect();
            for indices in plan_micro_batches(&lengths, self.train.micro_batch_tokens as usize) {
                if abandoned() {
                    return Ok(None);
                }
                let chosen: Vec<&Example> = indices.iter().map(|i| &examples[*i]).collect();
                if let Some(batch) = SftBatch::build(&chosen, self.policy.device())? {
                    let started = Instant::now();
                    let inputs = (&batch.tokens, &batch.select, &batch.targets);
                    let pass = self.pass(inputs, 1.0)?;
                    let output = sft_loss(pass.logprobs(), count).context(DIVERGED)?;
                    sums.loss += output.nll;
                    let way_back = (pass, &output.loss);
                    sums.backward(self.optimizer.parameters(), way_back, started)?;
                }
            }
        }
        let mut loss = [sums.loss];
        self.collective.all_reduce_sum_f64(&mut loss)?;
        sums.loss = loss[0];
        self.finish(sums, count).map(Some)
    }

    /// The loss of one micro-batch, with the pass that it is of; its statistics go into `stats`.
    fn policy_forward(
        &self,
        batch: &PolicyBatch,
        count: f64,
        stats: &mut RawStats,
    ) -> anyhow::Result<(Pass, Tensor)> {
        let temperature = f64::from(batch.temperature);
        let PolicyBatch { tokens, select, targets, columns, .. } = batch;
        let scoring = self.scoring(temperature);
        let reference = self.reference.as_ref();
        let reference = reference.map(|start| start.logprobs(tokens, select, targets, &scoring));
        let reference = reference.transpose()?; // [N]
        let pass = self.pass((tokens, select, targets), temperature)?;
        let inputs =
            LossInputs { logprobs: pass.logprobs(), reference: reference.as_ref(), columns };
        let output = policy_loss(&inputs, &self.loss, count).context(DIVERGED)?;
        stats.add(&output.stats);
        Ok((pass, output.loss))
    }

    fn pass(&self, inputs: (&Tensor, &Tensor, &Tensor), temperature: f64) -> anyhow::Result<Pass> {
        let scoring = self.scoring(temperature);
        Pass::forward(&self.policy, inputs, &scoring, self.train.recompute_blocks)
    }

    fn scoring(&self, temperature: f64) -> Scoring {
        let chunk_tokens = self.train.logprob_chunk_tokens as usize;
        Scoring { temperature, stops: self.stops.clone(), chunk_tokens }
    }

    /// How many tokens all ranks together have in the loss.
    fn global_count(&mut self, own: usize) -> anyhow::Result<f64> {
        let mut count = [own as f64];
        self.collective.all_reduce_sum_f64(&mut count)?;
        Ok(count[0])
    }

    /// Every rank knows the global count, so that all of them or none come to the sum of gradients.
    fn finish(&mut self, mut sums: Sums, count: f64) -> anyhow::Result<StepReport> {
        let learning_rate = self.learning_rate();
        let started = Instant::now();
        let mut grad_norm = 0.0;
        if count > 0.0 {
            let update = Update {
                learning_rate,
                grad_norm_max: self.train.grad_norm_max,
                sharded: self.train.shard_optimizer,
                torn: &self.torn,
            };
            let collective = self.collective.as_mut();
            grad_norm = update.take(&mut self.optimizer, &mut sums.gradients, collective)?;
        }
        self.steps_taken += 1;
        Ok(StepReport {
            tokens: count as u64,
            loss: if count > 0.0 { sums.loss / count } else { 0.0 },
            stats: sums.stats,
            grad_norm,
            learning_rate,
            forward: sums.forward,
            backward: sums.backward,
            update: started.elapsed(),
        })
    }
}

/// What to do about a run whose numbers have gone.
const DIVERGED: NotFinite = NotFinite(
    "training has diverged: go on from a checkpoint with a lower train.learning_rate or \
     train.grad_norm_max",
);

/// What a step's micro-batches add up to.
struct Sums {
    gradients: Gradients,
    stats: RawStats,
    /// Before the denominator.
    loss: f64,
    forward: Duration,
    backward: Duration,
}

impl Sums {
    fn new(optimizer: &AdamW) -> anyhow::Result<Self> {
        Ok(Self {
            gradients: Gradients::zeros(optimizer.parameters())?,
            stats: RawStats::default(),
            loss: 0.0,
            forward: Duration::ZERO,
            backward: Duration::ZERO,
        })
    }

    fn backward(
        &mut self,
        parameters: &Parameters,
        (pass, loss): (Pass, &Tensor),
        forward_started: Instant,
    ) -> anyhow::Result<()> {
        self.forward += forward_started.elapsed();
        let started = Instant::now();
        pass.backward(loss, parameters, &mut self.gradients).context(DIVERGED)?;
        self.backward += started.elapsed();
        Ok(())
    }
}

fn lora_settings(train: &Train) -> Option<LoraSettings> {
    let Lora { rank, alpha, targets } = train.lora.clone();
    (rank > 0).then_some(LoraSettings { rank: rank as usize, alpha, targets })
}

fn loss_settings(settings: &Settings, computing: DType) -> LossSettings {
    let train = &settings.train;
    let ratio = match (train.objective, train.ratio) {
        (Objective::Reinforce, _) => RatioLevel::Off,
        (_, Ratio::Token) => RatioLevel::Token,
        (_, Ratio::Sequence) => RatioLevel::Sequence,
    };
    // Old weights, or sampler and learner that round differently.
    let inexact = settings.staleness.max_versions > 0 || computing != DType::F32;
    LossSettings {
        clip_low: train.clip_low,
        clip_high: train.clip_high,
        truncate_ratio: inexact.then_some(train.ratio_cap),
        kl: train.kl,
        ratio,
    }
}

fn learning_rate(settings: &Settings) -> LearningRate {
    let train = &settings.train;
    let decay = match train.decay {
        settings::Decay::Constant => Decay::Constant,
        settings::Decay::Cosine => {
            Decay::Cosine { steps: u64::from(train.steps), floor: train.learning_rate_floor }
        }
    };
    LearningRate { peak: train.learning_rate, warmup_steps: u64::from(train.warmup_steps), decay }
}

#[cfg(test)]
mod tests;
