//! What the actor reads of its models before it joins: configuration, tokenizer, ends of text. The
//! strong weights come over the wire, the weak ones stay at the weak server.

use anyhow::{Context, ensure};
use model::{ModelConfig, ModelOutline, ModelSource, Placement};
use settings::Settings;
use task::{Compute, Task, shared_stops};
use tracing::{info, warn};
use types::TokenId;

use crate::groups::Rules;

#[derive(Clone)]
pub struct Models {
    /// The strong model's.
    pub config: ModelConfig,
    pub rules: Rules,
    /// Of the strong model.
    pub placement: Placement,
}

impl Models {
    /// # Errors
    /// A strong model that is missing or broken, a weak one with another tokenizer, or slots that
    /// hold more than the strong model's positions.
    pub fn read(settings: &Settings) -> anyhow::Result<Self> {
        let strong = ModelSource::parse(&settings.strong.model)
            .and_then(|source| source.outline())
            .context("strong.model")?;
        let (slot_tokens, positions) =
            (settings.actor.slot_tokens as usize, strong.config.max_position_embeddings);
        ensure!(
            slot_tokens <= positions,
            "actor.slot_tokens is {slot_tokens} but {} has {positions} positions: lower it",
            settings.strong.model
        );
        let stops = stops(settings, &strong)?;
        let rules = Rules {
            task: Task::new(settings, strong.tokenizer, stops)?,
            seed: settings.seed,
            slot_tokens,
            batch_tokens: settings.actor.batch_tokens as usize,
            cache_on_swap: settings.actor.cache_on_swap,
        };
        rules.task.check_weak_prompt()?;
        let compute = Compute::open(settings)?;
        info!(device = compute.device_name(), why = compute.why, "computing");
        Ok(Self { config: strong.config, rules, placement: compute.placement })
    }
}

/// The weak server may be the only one that can see the weak model; it then refuses the hello of
/// an actor that does not know all of its model's ends.
fn stops(settings: &Settings, strong: &ModelOutline) -> anyhow::Result<Vec<TokenId>> {
    match ModelSource::parse(settings.weak_model()).and_then(|source| source.outline()) {
        Ok(weak) => {
            let strong = (&strong.config, &strong.tokenizer);
            shared_stops(settings, strong, (&weak.config, &weak.tokenizer))
        }
        Err(error) => {
            warn!(
                %error,
                ends = ?strong.config.stops,
                "cannot read weak.model: only the strong model's ends are known here, and a weak \
                 server whose model has others will refuse this actor"
            );
            Ok(strong.config.stops.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_run_and_its_faults() {
        let settings = Settings::default();
        let models = Models::read(&settings).unwrap();
        assert_eq!(models.rules.task.stops(), models.config.stops);
        let error = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            format!("{:#}", Models::read(&settings).err().unwrap())
        };
        let missing = error(|s| s.strong.model = "/no/such/model".to_owned());
        assert!(missing.starts_with("strong.model: ") && missing.contains("/no/such/model"));
        let long = error(|s| s.actor.slot_tokens = 100_000);
        assert!(long.contains("actor.slot_tokens is 100000"), "{long}");
        // Without the weak model's files the strong one's ends must do.
        let mut alone = Settings::default();
        alone.weak.model = "/no/such/model".to_owned();
        assert_eq!(Models::read(&alone).unwrap().rules.task.stops(), models.config.stops);
    }
}
