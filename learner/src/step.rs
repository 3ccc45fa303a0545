//! One optimiser step: forward, loss and backward by micro-batches, sums over all ranks, clipping,
//! AdamW. Which rollouts make a step and what becomes of the new weights is decided outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use candle_core::{Tensor, Var};
use grpo::{
    AdamW, AdamWSettings, Decay, Example, Gradients, LearningRate, LossInputs, LossSettings,
    Parameters, PolicyBatch, RatioLevel, RawStats, SftBatch, plan_micro_batches, policy_loss,
    sft_loss, strong_tokens,
};
use model::{Decoder, ModelFiles, Scoring};
use settings::{Objective, Ratio, Settings};
use types::{Rollout, TokenId};

use crate::checkpoint::Checkpoint;
use crate::collective::Collective;

/// The strong model in training. One thread owns it.
pub struct Trainer {
    policy: Decoder,
    /// The run's start, where the loss has a KL term.
    reference: Option<Decoder>,
    optimizer: AdamW,
    stops: Vec<TokenId>,
    rate: LearningRate,
    loss: LossSettings,
    grad_norm_max: f64,
    micro_batch_tokens: usize,
    logprob_chunk_tokens: usize,
    steps_taken: u32,
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
        start: &ModelFiles,
        stops: &[TokenId],
        collective: Box<dyn Collective>,
    ) -> anyhow::Result<Self> {
        let vars: BTreeMap<String, Var> = start
            .tensors
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(tensor)?)))
            .collect::<candle_core::Result<_>>()?;
        let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let policy = Decoder::new(start.config.clone(), tensors.collect())?;
        let train = &settings.train;
        let loss = loss_settings(settings);
        loss.check()?;
        let needs_reference = train.kl > 0.0 && train.objective != Objective::Sft;
        let optimizer = AdamWSettings {
            beta1: train.beta1,
            beta2: train.beta2,
            weight_decay: train.weight_decay,
            ..AdamWSettings::default()
        };
        Ok(Self {
            reference: needs_reference.then(|| policy.frozen()).transpose()?,
            policy,
            optimizer: AdamW::new(Parameters::new(vars)?, optimizer),
            stops: stops.to_vec(),
            rate: learning_rate(settings),
            loss,
            grad_norm_max: train.grad_norm_max,
            micro_batch_tokens: train.micro_batch_tokens as usize,
            logprob_chunk_tokens: train.logprob_chunk_tokens as usize,
            steps_taken: 0,
            collective,
        })
    }

    /// Goes on from a checkpoint; the KL term keeps looking at the run's start.
    ///
    /// # Errors
    /// A checkpoint of another model; nothing is changed then but, at worst, some weights.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let found = checkpoint.files.config.tensors();
        ensure!(
            found == self.policy.config().tensors(),
            "checkpoint of step {} is of another model than this run's",
            checkpoint.state.step
        );
        self.optimizer.load_state(&checkpoint.optimizer, checkpoint.state.optimizer_updates)?;
        for (name, var) in self.optimizer.parameters().iter() {
            let tensor = checkpoint.files.tensors.get(name);
            var.set(tensor.with_context(|| format!("the checkpoint lacks {name}"))?)?;
        }
        self.steps_taken = checkpoint.state.step;
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

    /// The weights as safetensors.
    ///
    /// # Errors
    /// A weight that is not finite, which must not leave this process.
    pub fn weights(&self) -> anyhow::Result<Vec<u8>> {
        for (name, tensor) in self.policy.tensors() {
            // A sum is finite only if all of its terms are.
            let sum = tensor.detach().sum_all()?.to_dtype(candle_core::DType::F64)?;
            let sum = sum.to_scalar::<f64>()?;
            ensure!(sum.is_finite(), "weights of {name} are no longer finite: {ADVICE}");
        }
        Ok(model::to_safetensors(self.policy.tensors())?)
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
        let mut sums = Sums::new(&self.optimizer);
        if count > 0.0 {
            for indices in PolicyBatch::plan(rollouts, self.micro_batch_tokens) {
                if abandoned() {
                    return Ok(None);
                }
                let chosen: Vec<(&Rollout, f32)> = indices.iter().map(|i| rollouts[*i]).collect();
                let device = self.policy.device();
                if let Some(batch) = PolicyBatch::build(&chosen, self.steps_taken, device)? {
                    let started = Instant::now();
                    let loss = self.policy_forward(&batch, count, &mut sums.stats)?;
                    sums.backward(self.optimizer.parameters(), &loss, started)?;
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
        let mut sums = Sums::new(&self.optimizer);
        if count > 0.0 {
            let lengths: Vec<usize> = examples.iter().map(Example::training_len).collect();
            for indices in plan_micro_batches(&lengths, self.micro_batch_tokens) {
                if abandoned() {
                    return Ok(None);
                }
                let chosen: Vec<&Example> = indices.iter().map(|i| &examples[*i]).collect();
                if let Some(batch) = SftBatch::build(&chosen, self.policy.device())? {
                    let started = Instant::now();
                    let SftBatch { tokens, select, targets } = &batch;
                    let logprobs =
                        self.policy.logprobs(tokens, select, targets, &self.scoring(1.0))?;
                    let output = sft_loss(&logprobs, count).context(ADVICE)?;
                    sums.loss += output.nll;
                    sums.backward(self.optimizer.parameters(), &output.loss, started)?;
                }
            }
        }
        let mut loss = [sums.loss];
        self.collective.all_reduce_sum_f64(&mut loss)?;
        sums.loss = loss[0];
        self.finish(sums, count).map(Some)
    }

    /// The loss of one micro-batch; its statistics go into `stats`.
    fn policy_forward(
        &self,
        batch: &PolicyBatch,
        count: f64,
        stats: &mut RawStats,
    ) -> anyhow::Result<Tensor> {
        let scoring = self.scoring(f64::from(batch.temperature));
        let of = |decoder: &Decoder| {
            decoder.logprobs(&batch.tokens, &batch.select, &batch.targets, &scoring) // [N]
        };
        let reference = self.reference.as_ref().map(of).transpose()?;
        let policy = of(&self.policy)?;
        let columns = &batch.columns;
        let inputs = LossInputs { logprobs: &policy, reference: reference.as_ref(), columns };
        let output = policy_loss(&inputs, &self.loss, count).context(ADVICE)?;
        stats.add(&output.stats);
        Ok(output.loss)
    }

    fn scoring(&self, temperature: f64) -> Scoring {
        let chunk_tokens = self.logprob_chunk_tokens;
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
            self.collective.all_reduce_sum(sums.gradients.flat_mut())?;
            grad_norm = sums.gradients.clip_global_norm(self.grad_norm_max).context(ADVICE)?;
            self.optimizer.step(&sums.gradients, learning_rate)?;
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
const ADVICE: &str = "training has diverged: go on from a checkpoint with a lower \
                      train.learning_rate or train.grad_norm_max";

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
    fn new(optimizer: &AdamW) -> Self {
        Self {
            gradients: Gradients::zeros(optimizer.parameters()),
            stats: RawStats::default(),
            loss: 0.0,
            forward: Duration::ZERO,
            backward: Duration::ZERO,
        }
    }

    fn backward(
        &mut self,
        parameters: &Parameters,
        loss: &Tensor,
        forward_started: Instant,
    ) -> anyhow::Result<()> {
        self.forward += forward_started.elapsed();
        let started = Instant::now();
        self.gradients.accumulate(parameters, &loss.backward()?).context(ADVICE)?;
        self.backward += started.elapsed();
        Ok(())
    }
}

fn loss_settings(settings: &Settings) -> LossSettings {
    let train = &settings.train;
    let ratio = match (train.objective, train.ratio) {
        (Objective::Reinforce, _) => RatioLevel::Off,
        (_, Ratio::Token) => RatioLevel::Token,
        (_, Ratio::Sequence) => RatioLevel::Sequence,
    };
    LossSettings {
        clip_low: train.clip_low,
        clip_high: train.clip_high,
        truncate_ratio: (settings.staleness.max_versions > 0).then_some(train.ratio_cap),
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
