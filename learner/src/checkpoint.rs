//! Checkpoints: a Hugging Face directory with the optimiser's state beside it, whole or not at
//! all. When one is due is the training loop's decision.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Tensor};
use model::{
    ModelFiles, ModelSource, Placement, from_safetensors, to_safetensors, write_directory,
};
use serde::{Deserialize, Serialize};
use types::Hash;

const FORMAT: u32 = 1;
const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const FILES: [&str; 4] = ["config.json", "tokenizer.json", "model.safetensors", OPTIMIZER];
const PREFIX: &str = "step-";
/// Leading dot: never taken for a checkpoint.
const UNFINISHED: &str = ".unfinished-";
const REPLACED: &str = ".replaced-";

/// What `state.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub format: u32,
    /// Steps taken.
    pub step: u32,
    pub generation: u32,
    /// For instance `g1s20`.
    pub policy_version: String,
    /// Of the last step.
    pub learning_rate: f64,
    /// Steps with an empty loss take no update.
    pub optimizer_updates: u64,
    pub random_state: RandomState,
    /// Groups 0 up to this one, itself not included, made the weights.
    pub groups_consumed: u64,
    /// BLAKE3 of every other file of the directory.
    pub hashes: BTreeMap<String, String>,
}

/// All random numbers are hashes of names that begin with the seed: nothing else has to be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomState {
    pub seed: u64,
}

/// What goes into a checkpoint; `state.hashes` is filled in when it is written.
pub struct Contents<'a> {
    pub state: State,
    pub config_json: &'a str,
    pub tokenizer_json: &'a str,
    /// Safetensors.
    pub weights: &'a [u8],
    pub optimizer: &'a BTreeMap<String, Tensor>,
}

/// A checkpoint read back and verified.
pub struct Checkpoint {
    pub state: State,
    pub files: ModelFiles,
    pub optimizer: BTreeMap<String, Tensor>,
}

impl State {
    /// Without hashes.
    #[must_use]
    pub fn new(version: types::PolicyVersion, groups_per_step: u64, seed: u64) -> Self {
        Self {
            format: FORMAT,
            step: version.step,
            generation: version.generation.0,
            policy_version: version.to_string(),
            learning_rate: 0.0,
            optimizer_updates: 0,
            random_state: RandomState { seed },
            groups_consumed: u64::from(version.step) * groups_per_step,
            hashes: BTreeMap::new(),
        }
    }
}

/// The `checkpoints` directory of a run.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    dir: PathBuf,
    keep: usize,
}

impl CheckpointStore {
    /// `keep` is how many of the newest stay. Leftovers of an interrupted write are removed.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(dir: PathBuf, keep: u32) -> anyhow::Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let store = Self { dir, keep: keep.max(1) as usize };
        for name in store.names()? {
            if name.starts_with(UNFINISHED) || name.starts_with(REPLACED) {
                store.remove(&name)?;
            }
        }
        Ok(store)
    }

    /// The directory's name of a step: `step-000020`.
    #[must_use]
    pub fn name(step: u32) -> String {
        format!("{PREFIX}{step:06}")
    }

    #[must_use]
    pub fn has(&self, step: u32) -> bool {
        self.dir.join(Self::name(step)).join(STATE).is_file()
    }

    /// The newest whole checkpoint.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn newest(&self) -> anyhow::Result<Option<PathBuf>> {
        Ok(self.steps()?.last().map(|step| self.dir.join(Self::name(*step))))
    }

    /// Writes a checkpoint under another name, then gives it its own; deletes the oldest beyond
    /// those to keep. Returns the directory's name.
    ///
    /// # Errors
    /// A file cannot be written; no checkpoint is changed then.
    pub fn write(&self, contents: Contents<'_>) -> anyhow::Result<String> {
        let name = Self::name(contents.state.step);
        let (unfinished, target) =
            (self.dir.join(format!("{UNFINISHED}{name}")), self.dir.join(&name));
        let written = write_files(&unfinished, contents).and_then(|()| self.put(&name));
        if let Err(error) = written {
            // What is left over is removed at the next start, if it cannot be now.
            let _ = fs::remove_dir_all(&unfinished);
            return Err(error.context(format!("cannot write checkpoint {}", target.display())));
        }
        let steps = self.steps()?;
        for step in steps.iter().rev().skip(self.keep) {
            self.remove(&Self::name(*step))?;
        }
        Ok(name)
    }

    /// Steps of whole checkpoints, ascending.
    fn steps(&self) -> anyhow::Result<Vec<u32>> {
        let names = self.names()?;
        let steps = names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok());
        let mut steps: Vec<u32> = steps.filter(|step| self.has(*step)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
        let unreadable = || format!("cannot read {}", self.dir.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).with_context(unreadable)? {
            names.push(entry.with_context(unreadable)?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Renames into place. A directory cannot replace another in one move, so an older checkpoint
    /// of the same step steps aside first.
    fn put(&self, name: &str) -> anyhow::Result<()> {
        let (unfinished, target) =
            (self.dir.join(format!("{UNFINISHED}{name}")), self.dir.join(name));
        let aside = self.dir.join(format!("{REPLACED}{name}"));
        if target.exists() {
            fs::rename(&target, &aside)?;
        }
        fs::rename(&unfinished, &target)?;
        sync(&self.dir)?;
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// Reads a checkpoint and verifies every hash.
///
/// # Errors
/// A directory that holds something else, a missing or damaged file, another format.
pub fn load_checkpoint(dir: &Path) -> anyhow::Result<Checkpoint> {
    let state = dir.join(STATE);
    if !state.is_file() {
        bail!("{} is no checkpoint, it has no {STATE}: name a step-… directory", dir.display());
    }
    let text = fs::read_to_string(&state).with_context(|| format!("{}", state.display()))?;
    let state: State = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged: use an older checkpoint", state.display()))?;
    ensure!(
        state.format == FORMAT,
        "{} has format {}, this program reads {FORMAT}",
        dir.display(),
        state.format
    );
    for name in FILES {
        let path = dir.join(name);
        let bytes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
        let expected = state.hashes.get(name).map_or("none", String::as_str);
        let found = Hash::of(&bytes).to_string();
        ensure!(
            found == expected,
            "{} is damaged, its hash is {found} where {STATE} says {expected}: use an older \
             checkpoint",
            path.display()
        );
    }
    let placement = Placement::cpu(DType::F32);
    let files = ModelSource::Directory(dir.to_owned()).load(0, &placement)?;
    let path = dir.join(OPTIMIZER);
    let bytes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    let optimizer = from_safetensors(&bytes, &path.display().to_string(), &placement)?;
    Ok(Checkpoint { state, files, optimizer })
}

fn write_files(dir: &Path, contents: Contents<'_>) -> anyhow::Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    let Contents { mut state, config_json, tokenizer_json, weights, optimizer } = contents;
    write_directory(dir, config_json, tokenizer_json, weights)?;
    let optimizer = to_safetensors(optimizer)?;
    fs::write(dir.join(OPTIMIZER), &optimizer)?;
    let bytes = [config_json.as_bytes(), tokenizer_json.as_bytes(), weights, &optimizer];
    let hashes = FILES.iter().zip(bytes);
    state.hashes = hashes.map(|(f, b)| ((*f).to_owned(), Hash::of(b).to_string())).collect();
    fs::write(dir.join(STATE), serde_json::to_string_pretty(&state)?)?;
    for name in FILES.into_iter().chain([STATE]) {
        sync(&dir.join(name))?;
    }
    sync(dir)
}

fn sync(path: &Path) -> anyhow::Result<()> {
    Ok(File::open(path)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::PolicyVersion;

    const TOKENIZER: fn() -> String = miniature::tokenizer_json;

    fn contents<'a>(
        step: u32,
        weights: &'a [u8],
        optimizer: &'a BTreeMap<String, Tensor>,
    ) -> Contents<'a> {
        let config_json = Box::leak(miniature::config_json(miniature::Role::Strong).into());
        let tokenizer_json = Box::leak(TOKENIZER().into());
        let state = State::new(PolicyVersion::new(1, step), 8, 5);
        Contents { state, config_json, tokenizer_json, weights, optimizer }
    }

    fn moments() -> BTreeMap<String, Tensor> {
        let tensor = Tensor::new(&[0.5_f32, -1.0], &candle_core::Device::Cpu).unwrap();
        [("first_moment.w".to_owned(), tensor)].into()
    }

    #[test]
    fn the_newest_stay_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path().join("checkpoints"), 2).unwrap();
        let weights = miniature::fresh_weights(miniature::Role::Strong, 1);
        let moments = moments();
        for step in [2, 4, 10, 4] {
            let name = store.write(contents(step, &weights, &moments)).unwrap();
            assert_eq!(name, CheckpointStore::name(step));
        }
        assert_eq!(store.steps().unwrap(), [4, 10]);
        assert_eq!(store.newest().unwrap().unwrap(), store.dir.join("step-000010"));
        fs::create_dir(store.dir.join(".unfinished-step-000012")).unwrap();
        let again = CheckpointStore::open(store.dir.clone(), 2).unwrap();
        let mut names = again.names().unwrap();
        names.sort();
        assert_eq!(names, ["step-000004", "step-000010"]);
    }

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path().to_owned(), 1).unwrap();
        let weights = miniature::fresh_weights(miniature::Role::Strong, 1);
        store.write(contents(20, &weights, &moments())).unwrap();
        let checkpoint = load_checkpoint(&store.newest().unwrap().unwrap()).unwrap();
        assert_eq!(to_safetensors(&checkpoint.files.tensors).unwrap().len(), weights.len());
        let moment = checkpoint.optimizer["first_moment.w"].to_vec1::<f32>().unwrap();
        assert_eq!(moment, [0.5, -1.0]);
        let State { step, generation, groups_consumed, random_state, .. } = checkpoint.state;
        assert_eq!((step, generation, groups_consumed, random_state.seed), (20, 1, 160, 5));
    }

    #[test]
    fn damage_and_other_directories_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", load_checkpoint(path).err().unwrap());
        assert!(error(dir.path()).contains("is no checkpoint"));
        let store = CheckpointStore::open(dir.path().to_owned(), 1).unwrap();
        let weights = miniature::fresh_weights(miniature::Role::Strong, 1);
        store.write(contents(3, &weights, &moments())).unwrap();
        let path = store.newest().unwrap().unwrap();
        let file = path.join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        let text = error(&path);
        assert!(text.contains("model.safetensors is damaged"), "{text}");
        fs::remove_file(path.join(OPTIMIZER)).unwrap();
        fs::write(&file, &weights).unwrap();
        assert!(error(&path).contains("optimizer.safetensors"), "{}", error(&path));
    }
}
