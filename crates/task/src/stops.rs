//! What two models that write one text in turns must share: the tokenizer, and the ends of the text.

use anyhow::ensure;
use model::{ModelConfig, Tokenizer};
use settings::Settings;
use types::TokenId;

/// Union of both models' ends, the strong model's canonical one first. Every program that needs
/// the ends takes them from here: with different ones, one would sample past another's end.
///
/// # Errors
/// Different tokenizers.
pub fn shared_stops(
    settings: &Settings,
    strong: (&ModelConfig, &Tokenizer),
    weak: (&ModelConfig, &Tokenizer),
) -> anyhow::Result<Vec<TokenId>> {
    check_tokenizers(settings, strong.1, weak.1)?;
    Ok(union(&strong.0.stops, &weak.0.stops))
}

/// # Errors
/// Different tokenizers.
pub fn check_tokenizers(
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

/// The first list's order, then what only the second has.
fn union(first: &[TokenId], second: &[TokenId]) -> Vec<TokenId> {
    let mut all = first.to_vec();
    for stop in second {
        if !all.contains(stop) {
            all.push(*stop);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use model::ModelSource;

    use super::*;

    #[test]
    fn the_strong_models_canonical_end_stays_first() {
        assert_eq!(union(&[7, 3], &[3, 9, 7, 9]), [7, 3, 9]);
    }

    #[test]
    fn tokenizers_are_compared_and_heads_are_not() {
        let settings = Settings::default();
        let outline = ModelSource::parse(&settings.strong.model).unwrap().outline().unwrap();
        let json = miniature::tokenizer_json().replace("\"apples\"", "\"pears\"");
        let other = Tokenizer::from_json(&json, "other").unwrap();
        let (config, own) = (&outline.config, &outline.tokenizer);
        let stops = shared_stops(&settings, (config, own), (config, own)).unwrap();
        assert_eq!(stops, config.stops);
        let mut wider = config.clone();
        wider.vocab_size += 64;
        assert_eq!(shared_stops(&settings, (&wider, own), (config, own)).unwrap(), config.stops);
        let error = shared_stops(&settings, (config, own), (config, &other)).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("different tokenizers") && error.contains("apples"), "{error}");
        assert!(error.contains("weak.model = builtin:miniature-weak"), "{error}");
    }
}
