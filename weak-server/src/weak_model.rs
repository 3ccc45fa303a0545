//! The weak model as the settings name it, checked against the strong one's tokenizer. What it then
//! computes is the engine's.

use anyhow::Context;
use model::{Decoder, ModelSource, Tokenizer};
use settings::Settings;
use task::{Compute, check_tokenizers};

/// Frozen for the whole run.
#[derive(Clone)]
pub struct WeakModel {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
}

impl WeakModel {
    /// # Errors
    /// Files missing or corrupt, or a tokenizer that is not the strong model's.
    pub fn load(settings: &Settings) -> anyhow::Result<Self> {
        let name = settings.weak_model();
        let compute = Compute::open(settings)?;
        tracing::info!(device = compute.device_name(), why = compute.why, "computing");
        let (decoder, tokenizer) = ModelSource::parse(name)
            .and_then(|source| source.load_frozen(settings.seed, &compute.placement))
            .context("cannot load weak.model")?;
        let strong = ModelSource::parse(&settings.strong.model).and_then(|source| source.outline());
        // On a machine of its own this process need not have the strong model's files; every
        // actor's hello is checked all the same.
        match strong {
            Ok(strong) => check_tokenizers(settings, &strong.tokenizer, &tokenizer)?,
            Err(error) => {
                tracing::warn!(%error, "strong.model is not here, its tokenizer is not compared");
            }
        }
        Ok(Self { decoder, tokenizer })
    }
}
