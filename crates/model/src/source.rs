//! Where a model comes from, as settings name it: a directory, a GGUF file, the weights built into
//! the program, or random ones of the same shape.

use std::fmt;
use std::path::PathBuf;

use candle_core::DType;
use miniature::Role;

use crate::directory::{
    Texts, read_config, read_extras, read_tensors, read_tokenizer, stored_dtype, texts,
};
use crate::gguf::{self, GgufFile};
use crate::{Decoder, ModelConfig, ModelError, Placement, Tensors, Tokenizer, weights};

/// `strong.model` or `weak.model`, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// Weights built into the program.
    Builtin(Role),
    /// The same shape with seeded random weights.
    Fresh(Role),
    Directory(PathBuf),
    /// A file whose name ends with `.gguf`.
    Gguf(PathBuf),
}

/// All of a model but its weights.
#[derive(Clone)]
pub struct ModelOutline {
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
    /// See [`ModelSource::extras`].
    pub extras: Texts,
}

#[derive(Clone)]
pub struct ModelFiles {
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
    pub extras: Texts,
    pub tensors: Tensors,
}

const NAMED: [(&str, ModelSource); 4] = [
    ("builtin:miniature-strong", ModelSource::Builtin(Role::Strong)),
    ("builtin:miniature-weak", ModelSource::Builtin(Role::Weak)),
    ("fresh:miniature-strong", ModelSource::Fresh(Role::Strong)),
    ("fresh:miniature-weak", ModelSource::Fresh(Role::Weak)),
];

impl ModelSource {
    /// # Errors
    /// A name with `builtin:` or `fresh:` that is not known.
    pub fn parse(name: &str) -> Result<Self, ModelError> {
        if let Some((_, source)) = NAMED.iter().find(|(known, _)| *known == name) {
            return Ok(source.clone());
        }
        if name.is_empty() || name.starts_with("builtin:") || name.starts_with("fresh:") {
            let known = NAMED.map(|(known, _)| known).join(", ");
            return Err(ModelError::UnknownModel { name: name.to_owned(), known });
        }
        let path = PathBuf::from(name);
        Ok(match path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
            true => Self::Gguf(path),
            false => Self::Directory(path),
        })
    }

    /// Configuration and tokenizer, without reading weights.
    ///
    /// # Errors
    /// Files missing, unreadable, or at odds with each other.
    pub fn outline(&self) -> Result<ModelOutline, ModelError> {
        let (mut config, tokenizer, extras) = match self {
            Self::Builtin(role) | Self::Fresh(role) => {
                let name = self.to_string();
                let config = ModelConfig::parse(&miniature::config_json(*role), None, &name)?;
                let tokenizer = Tokenizer::from_json(&miniature::tokenizer_json(), &name)?;
                (config, tokenizer, Texts::new())
            }
            Self::Directory(dir) => (read_config(dir)?, read_tokenizer(dir)?, read_extras(dir)?),
            Self::Gguf(path) => {
                let file = GgufFile::open(path)?;
                let extras = gguf::read_extras(&file)?;
                (gguf::read_config(&file)?, gguf::read_tokenizer(&file)?, extras)
            }
        };
        config.fit(&tokenizer, &self.to_string())?;
        let tokenizer = tokenizer.limited_to(config.ids);
        Ok(ModelOutline { config, tokenizer, extras })
    }

    /// What belongs to the model but is of no account to its numbers, such as
    /// `tokenizer_config.json` with a chat template, as files of a model directory.
    ///
    /// # Errors
    /// Files that are there and unreadable, or a broken GGUF file.
    pub fn extras(&self) -> Result<Texts, ModelError> {
        match self {
            Self::Builtin(_) | Self::Fresh(_) => Ok(Texts::new()),
            Self::Directory(dir) => read_extras(dir),
            Self::Gguf(path) => gguf::read_extras(&GgufFile::open(path)?),
        }
    }

    /// Everything. `seed` is for fresh weights only.
    ///
    /// # Errors
    /// As [`Self::outline`]; weights missing, corrupt, of another shape or not finite.
    pub fn load(&self, seed: u64, placement: &Placement) -> Result<ModelFiles, ModelError> {
        let ModelOutline { config, tokenizer, extras } = self.outline()?;
        let name = self.to_string();
        let tensors = match self {
            Self::Builtin(role) => {
                let bytes = miniature::weights(*role);
                if bytes.is_empty() {
                    let other = Self::Fresh(*role).to_string();
                    return Err(ModelError::NoBuiltinWeights { name, other });
                }
                weights::load(&config, bytes, &name, placement)?
            }
            Self::Fresh(role) => {
                let bytes = miniature::fresh_weights(*role, seed);
                weights::load(&config, &bytes, &name, placement)?
            }
            Self::Directory(dir) => read_tensors(dir, &config, placement)?,
            Self::Gguf(path) => gguf::read_dense(&GgufFile::open(path)?, &config, placement)?,
        };
        Ok(ModelFiles { config, tokenizer, extras, tensors })
    }

    /// The narrowest type that holds all weights as they are.
    ///
    /// # Errors
    /// As [`Self::outline`]; weights missing or corrupt.
    pub fn stored_dtype(&self) -> Result<DType, ModelError> {
        match self {
            Self::Directory(dir) => stored_dtype(dir, &self.outline()?.config),
            Self::Builtin(_) | Self::Fresh(_) | Self::Gguf(_) => Ok(DType::F32),
        }
    }

    /// A decoder that is never trained, with its tokenizer: quantised weights stay quantised.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_frozen(
        &self,
        seed: u64,
        placement: &Placement,
    ) -> Result<(Decoder, Tokenizer), ModelError> {
        let Self::Gguf(path) = self else {
            let files = self.load(seed, placement)?;
            return Ok((files.decoder()?, files.tokenizer));
        };
        let ModelOutline { config, tokenizer, .. } = self.outline()?;
        let file = GgufFile::open(path)?;
        Ok((gguf::read_quantized(&file, &config, &placement.device)?, tokenizer))
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMED.iter().find(|(_, source)| source == self) {
            Some((name, _)) => f.write_str(name),
            None => match self {
                Self::Directory(path) | Self::Gguf(path) => path.display().fmt(f),
                Self::Builtin(_) | Self::Fresh(_) => unreachable!("every role is named"),
            },
        }
    }
}

impl ModelFiles {
    /// All files of its directory but the weights.
    ///
    /// # Errors
    /// A tokenizer that cannot be written.
    pub fn texts(&self) -> Result<Texts, ModelError> {
        texts(&self.config, &self.tokenizer, &self.extras)
    }

    /// # Errors
    /// Tensors at odds with the configuration, which loading has ruled out.
    pub fn decoder(&self) -> Result<Decoder, ModelError> {
        Decoder::new(self.config.clone(), self.tensors.clone())
    }
}
