//! The weak model as the settings name it, checked against the strong one's tokenizer. What it then
//! computes is the engine's.

use anyhow::{Context, ensure};
use candle_core::DType;
use model::{Decoder, ModelFiles, ModelOutline, ModelSource, Placement, Tokenizer};
use settings::Settings;
use types::TokenId;

/// Frozen for the whole run.
#[derive(Clone)]
pub struct WeakModel {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
    /// Union of both models' ends, the strong model's first: that one is canonical.
    pub stops: Vec<TokenId>,
}

impl WeakModel {
    /// # Errors
    /// Files missing or corrupt, or a tokenizer that is not the strong model's.
    pub fn load(settings: &Settings) -> anyhow::Result<Self> {
        let name = settings.weak_model();
        let files = ModelSource::parse(name)
            .and_then(|source| source.load(settings.seed, &Placement::cpu(DType::F32)))
            .context("cannot load weak.model")?;
        let strong = ModelSource::parse(&settings.strong.model).and_then(|source| source.outline());
        let stops = match strong {
            Ok(strong) => {
                check_tokenizers(settings, &strong.tokenizer, &files.tokenizer)?;
                union_of_stops(&strong, &files)
            }
            Err(error) => {
                // On a machine of its own this process need not have the strong model's files;
                // then every actor's hello is checked all the same.
                tracing::warn!(%error, "strong.model is not here, its tokenizer is not compared");
                files.config.stops.clone()
            }
        };
        let decoder = files.decoder().context("cannot use weak.model")?;
        Ok(Self { decoder, tokenizer: files.tokenizer, stops })
    }
}

fn check_tokenizers(
    settings: &Settings,
    strong: &Tokenizer,
    weak: &Tokenizer,
) -> anyhow::Result<()> {
    let difference = strong.difference(weak);
    ensure!(
        difference.is_none(),
        "strong.model = {} and weak.model = {} have different tokenizers, but they write one text \
         in turns ({}, strong against weak): choose two models of one family",
        settings.strong.model,
        settings.weak_model(),
        difference.unwrap_or_default()
    );
    Ok(())
}

fn union_of_stops(strong: &ModelOutline, weak: &ModelFiles) -> Vec<TokenId> {
    let mut stops = strong.config.stops.clone();
    let others = weak.config.stops.iter().filter(|id| !strong.config.stops.contains(id));
    stops.extend(others);
    stops
}
