//! What the actor reads of its models before it joins: configuration, tokenizer, ends of text. The
//! strong weights come over the wire, the weak ones stay at the weak server.

use anyhow::{Context, ensure};
use model::{ModelConfig, ModelSource};
use settings::Settings;
use task::Task;
use types::TokenId;

use crate::groups::Rules;

#[derive(Clone)]
pub struct Models {
    /// The strong model's.
    pub config: ModelConfig,
    pub rules: Rules,
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
        let mut stops = strong.config.stops.clone();
        // The weak server may be the only one that can see the weak model.
        if let Ok(weak) = ModelSource::parse(settings.weak_model()).and_then(|s| s.outline()) {
            if let Some(difference) = strong.tokenizer.difference(&weak.tokenizer) {
                anyhow::bail!(
                    "strong.model and weak.model have different tokenizers ({difference}): name \
                     two models of one family"
                );
            }
            stops = union(stops, &weak.config.stops);
        }
        let rules = Rules {
            task: Task::new(settings, strong.tokenizer, stops),
            seed: settings.seed,
            weak_may_end: settings.handoff.weak_may_end,
            slot_tokens,
        };
        Ok(Self { config: strong.config, rules })
    }
}

/// The first list's order, then what only the second has.
fn union(mut first: Vec<TokenId>, second: &[TokenId]) -> Vec<TokenId> {
    for stop in second {
        if !first.contains(stop) {
            first.push(*stop);
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strong_models_canonical_end_stays_first() {
        assert_eq!(union(vec![7, 3], &[3, 9, 7]), [7, 3, 9]);
    }

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
    }
}
