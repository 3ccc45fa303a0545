//! What a directory holds after every kind of write and interruption.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor, Var};
use grpo::{AdamW, AdamWSettings, Parameters};
use model::to_safetensors;

use super::*;
use types::PolicyVersion;

const RUN: u64 = 3;
const TOKENIZER: fn() -> String = miniature::tokenizer_json;

pub(super) fn contents(step: u32, weights: &[u8], optimizer: &OptimizerState) -> Contents {
    let texts = [
        ("config.json", miniature::config_json(miniature::Role::Strong)),
        ("tokenizer.json", TOKENIZER()),
        ("chat_template.jinja", "{{ messages }}".to_owned()),
    ];
    Contents {
        state: State::new(RUN, PolicyVersion::new(1, step), 8, 5),
        texts: Arc::new(texts.map(|(name, text)| (name.to_owned(), text)).into()),
        weights: Arc::new(weights.to_vec()),
        optimizer: optimizer.clone(),
        adapters: None,
    }
}

/// Of one variable with two numbers.
pub(super) fn moments() -> OptimizerState {
    let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu).unwrap();
    let vars = [("w".to_owned(), Var::from_tensor(&tensor([0.0; 2])).unwrap())];
    let mut adamw =
        AdamW::new(Parameters::new(vars.into()).unwrap(), AdamWSettings::default()).unwrap();
    let moments =
        [("first_moment.w", tensor([0.5, -1.0])), ("second_moment.w", tensor([2.0, 3.0]))];
    let moments = BTreeMap::from(moments.map(|(name, t)| (name.to_owned(), t)));
    adamw.load_state(&moments, 1).unwrap();
    adamw.gathered_state(|_| Ok::<(), grpo::Error>(())).unwrap()
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
    assert_eq!(store.steps().unwrap(), [2, 4, 10], "until the step is committed");
    store.prune(4).unwrap();
    assert_eq!(store.steps().unwrap(), [2, 4, 10], "2 and 4 are all that is committed");
    store.prune(10).unwrap();
    assert_eq!(store.steps().unwrap(), [4, 10]);
    assert_eq!(newest(&store), store.dir.join("step-000010"));
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
    let checkpoint = load_checkpoint(&newest(&store)).unwrap();
    assert_eq!(to_safetensors(&checkpoint.files.tensors).unwrap().len(), weights.len());
    let extras = checkpoint.files.extras;
    assert_eq!(extras["chat_template.jinja"], "{{ messages }}");
    assert_eq!(extras.len(), 1);
    let moment = checkpoint.optimizer.read("first_moment.w").unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(moment, [0.5, -1.0]);
    assert_eq!(
        checkpoint.optimizer.read("second_moment.w").unwrap().to_vec1::<f32>().unwrap(),
        [2.0, 3.0]
    );
    assert!(checkpoint.adapters.is_none());
    let State { step, generation, groups_consumed, random_state, .. } = checkpoint.state;
    assert_eq!((step, generation, groups_consumed, random_state.seed), (20, 1, 160, 5));
}

#[test]
fn adapters_are_a_format_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(dir.path().to_owned(), 1).unwrap();
    let weights = miniature::fresh_weights(miniature::Role::Strong, 1);
    let (moments, lora) = (moments(), LoraState { rank: 2, alpha: 8.0, targets: BTreeSet::new() });
    let adapters: Tensors =
        [("a".to_owned(), Tensor::new(&[1.5f32, -2.0], &Device::Cpu).unwrap())].into();
    let mut contents = contents(3, &weights, &moments);
    contents.state.lora = Some(lora.clone());
    contents.adapters = Some(to_safetensors(&adapters).unwrap());
    store.write(contents).unwrap();
    let path = newest(&store);
    let checkpoint = load_checkpoint(&path).unwrap();
    assert_eq!((checkpoint.state.format, checkpoint.state.lora), (2, Some(lora)));
    assert_eq!(checkpoint.adapters.unwrap()["a"].to_vec1::<f32>().unwrap(), [1.5, -2.0]);
    let error = || format!("{:#}", load_checkpoint(&path).err().unwrap());
    fs::write(path.join(ADAPTERS), b"other").unwrap();
    assert!(error().contains("adapters.safetensors is damaged"), "{}", error());
    let mut state = sealed::read(&path.join(STATE)).unwrap();
    state.format = 3;
    sealed::write(&path.join(STATE), &mut state).unwrap();
    assert!(error().contains("has format 3, this program reads 1 and"), "{}", error());
}

#[test]
fn damage_and_other_directories_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| format!("{:#}", load_checkpoint(path).err().unwrap());
    assert!(error(dir.path()).contains("is no checkpoint"));
    let store = CheckpointStore::open(dir.path().to_owned(), 1).unwrap();
    let weights = miniature::fresh_weights(miniature::Role::Strong, 1);
    store.write(contents(3, &weights, &moments())).unwrap();
    let path = newest(&store);
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

pub(super) fn names(store: &CheckpointStore) -> Vec<String> {
    let mut names = store.names().unwrap();
    names.sort();
    names
}

/// A store with whole checkpoints of these steps; their weights are drawn from the step.
fn store_of(dir: &Path, steps: &[u32]) -> CheckpointStore {
    let store = CheckpointStore::open(dir.to_owned(), 9).unwrap();
    for step in steps {
        let weights = miniature::fresh_weights(miniature::Role::Strong, u64::from(*step));
        store.write(contents(*step, &weights, &moments())).unwrap();
    }
    store
}

#[test]
fn a_replacement_that_broke_off_leaves_the_old_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), &[4]);
    let old = fs::read(dir.path().join("step-000004/model.safetensors")).unwrap();
    // Between the two renames.
    fs::rename(dir.path().join("step-000004"), dir.path().join(".replaced-step-000004")).unwrap();
    fs::create_dir(dir.path().join(".unfinished-step-000004")).unwrap();
    assert_eq!(store.steps().unwrap(), [0_u32; 0]);
    let again = CheckpointStore::open(dir.path().to_owned(), 9).unwrap();
    assert_eq!(names(&again), ["step-000004"]);
    load_checkpoint(&newest(&again)).unwrap();
    assert_eq!(fs::read(dir.path().join("step-000004/model.safetensors")).unwrap(), old);
}

#[test]
fn a_replacement_that_is_done_leaves_the_new_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    store_of(dir.path(), &[4]);
    let aside = dir.path().join(".replaced-step-000004");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("state.json"), "old").unwrap();
    let again = CheckpointStore::open(dir.path().to_owned(), 9).unwrap();
    assert_eq!(names(&again), ["step-000004"]);
    load_checkpoint(&newest(&again)).unwrap();
}

#[test]
fn a_checkpoint_that_was_being_deleted_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), &[4, 6]);
    // Retirement broke off after its first deletions.
    let retired = dir.path().join(".retired-step-000004");
    fs::rename(dir.path().join("step-000004"), &retired).unwrap();
    fs::remove_file(retired.join("model.safetensors")).unwrap();
    assert_eq!(store.steps().unwrap(), [6]);
    let again = CheckpointStore::open(dir.path().to_owned(), 1).unwrap();
    assert_eq!(names(&again), ["step-000006"]);
    // A leftover of the same name is in nobody's way.
    fs::create_dir(dir.path().join(".retired-step-000006")).unwrap();
    again
        .write(contents(8, &miniature::fresh_weights(miniature::Role::Strong, 8), &moments()))
        .unwrap();
    again.prune(8).unwrap();
    assert_eq!(names(&again), ["step-000008"]);
}

#[test]
fn later_checkpoints_of_the_same_run_are_discarded_and_anothers_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), &[4, 6, 8]);
    store.discard_after(6, RUN).unwrap();
    assert_eq!(names(&store), ["step-000004", "step-000006"]);
    let error = store.discard_after(4, RUN + 1).unwrap_err().to_string();
    assert!(error.contains("step-000006 is of another run: choose another run.dir"), "{error}");
    assert_eq!(names(&store), ["step-000004", "step-000006"]);
    // Whose a damaged one is cannot be told; nobody could go on from it.
    fs::write(store.path(6).join(STATE), "{").unwrap();
    store.discard_after(4, RUN).unwrap();
    assert_eq!(names(&store), ["step-000004"]);
}

fn newest(store: &CheckpointStore) -> PathBuf {
    store.path(*store.steps().unwrap().last().unwrap())
}

#[test]
fn a_failed_replacement_puts_the_old_checkpoint_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), &[4]);
    // Nothing was written that could take its place.
    let error = store.put("step-000004").unwrap_err().to_string();
    assert!(error.contains("cannot rename"), "{error}");
    assert_eq!(names(&store), ["step-000004"]);
    load_checkpoint(&newest(&store)).unwrap();
}

#[test]
fn row_21_no_name_in_a_state_leads_out_of_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(&dir.path().join("checkpoints"), &[2]);
    let path = newest(&store);
    let secret = dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let hash = Hash::of(b"secret").to_string();
    let text = fs::read_to_string(path.join(STATE)).unwrap();
    let mut state: State = serde_json::from_str(&text).unwrap();
    let sound = state.hashes.clone();
    for name in ["../../secret", secret.to_str().unwrap(), "a/../../../secret", ".."] {
        state.hashes = sound.clone();
        state.hashes.insert(name.to_owned(), hash.clone());
        sealed::write(&path.join(STATE), &mut state).unwrap();
        let error = format!("{:#}", load_checkpoint(&path).err().unwrap());
        assert!(error.contains("which is no file beside it"), "{name}: {error}");
    }
}
