//! Checkpoints in stores that refuse, break off, lose bytes or say nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::future::pending;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use settings::{Checkpoint, Store as StoreSettings};
use types::Hash;

use crate::backend::Patience;
use crate::seal::sealed_text;
use crate::{STATE, Shelf, Store, StoreError, run_name};

const RUN: u64 = 7;
const PART_BYTES: u64 = 64;
const RETRIES: u32 = 2;

/// How a store answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Sound,
    /// So many requests fail, and then none does.
    FailsFor(u32),
    RefusesWrites,
    /// After so many writes none succeeds.
    BreaksAfter(u32),
    Silent,
}

#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    mood: Mutex<Mood>,
    requests: AtomicU32,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a faulty store")
    }
}

impl Faulty {
    async fn meet(&self, path: &Path, writes: bool) -> Result<()> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let now = {
            let mut mood = self.mood.lock().unwrap();
            let now = *mood;
            match &mut *mood {
                Mood::FailsFor(left) => *left = left.saturating_sub(1),
                Mood::BreaksAfter(left) if writes => *left = left.saturating_sub(1),
                _ => {}
            }
            now
        };
        let path = path.to_string();
        match now {
            Mood::FailsFor(1..) => Err(generic("503 Slow Down")),
            Mood::BreaksAfter(0) if writes => Err(generic("connection reset")),
            Mood::RefusesWrites if writes => {
                Err(Error::PermissionDenied { path, source: "403 Forbidden".into() })
            }
            Mood::Silent => pending().await,
            _ => Ok(()),
        }
    }
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "faulty", source: text.into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, what: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.meet(at, true).await?;
        self.inner.put_opts(at, what, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.meet(at, true).await?;
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.meet(at, false).await?;
        self.inner.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

struct Bench {
    store: Arc<Faulty>,
    shelf: Shelf,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let store = Arc::new(Faulty {
            inner: InMemory::new(),
            mood: Mutex::new(Mood::Sound),
            requests: AtomicU32::new(0),
        });
        let patience = Patience { timeout: Duration::from_secs(9), retries: RETRIES };
        let open = Store::of(Arc::clone(&store) as _, "s3://runs/a", patience, PART_BYTES);
        Self { store, shelf: Shelf::new(open, run_name(RUN)), dir: tempfile::tempdir().unwrap() }
    }

    fn set(&self, mood: Mood) {
        *self.store.mood.lock().unwrap() = mood;
        self.store.requests.store(0, Ordering::SeqCst);
    }

    fn requests(&self) -> u32 {
        self.store.requests.load(Ordering::SeqCst)
    }

    /// A checkpoint on this machine: a file of several parts, one of a part, an empty one.
    fn local(&self, run: u64, step: u32) -> PathBuf {
        write_checkpoint(&self.dir.path().join(format!("{run}-{step}")), run, step)
    }

    async fn fetch(&self, step: u32) -> Result<PathBuf, StoreError> {
        let to = self.dir.path().join("fetched");
        let room = Checkpoint { free_bytes_min: 0, ..Checkpoint::default() };
        self.shelf.download(step, &to, &room).await.map(|()| to)
    }

    async fn error(&self, step: u32) -> String {
        self.fetch(step).await.unwrap_err().to_string()
    }

    fn path(step: u32, name: &str) -> Path {
        Path::from(format!("run-0000000000000007/checkpoints/step-{step:06}/{name}"))
    }
}

fn write_checkpoint(dir: &FilePath, run: u64, step: u32) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let large: Vec<u8> = (0..PART_BYTES * 5 + 3).map(|n| (n + u64::from(step)) as u8).collect();
    let files = [("model.safetensors", large), ("config.json", b"{}".to_vec()), ("empty", vec![])];
    let mut hashes = Vec::new();
    for (name, bytes) in &files {
        fs::write(dir.join(name), bytes).unwrap();
        hashes.push((*name, Hash::of(bytes).to_string()));
    }
    fs::write(dir.join(STATE), sealed_text(run, step, &hashes)).unwrap();
    // The coordinator's, and no part of the checkpoint.
    fs::write(dir.join("evaluation.json"), "{}").unwrap();
    dir.to_owned()
}

fn contents(dir: &FilePath) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let file = |entry: fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

#[tokio::test]
async fn what_is_fetched_is_what_was_stored() {
    let bench = Bench::new();
    let dir = bench.local(RUN, 4);
    assert!(bench.shelf.steps().await.unwrap().is_empty());
    bench.shelf.upload(&dir).await.unwrap();
    bench.shelf.upload(&bench.local(RUN, 12)).await.unwrap();
    assert_eq!(bench.shelf.steps().await.unwrap(), [4, 12].into());
    let mut expected = contents(&dir);
    assert!(expected.remove("evaluation.json").is_some());
    // What an earlier download left is in nobody's way.
    fs::create_dir(bench.dir.path().join("fetched")).unwrap();
    fs::write(bench.dir.path().join("fetched/model.safetensors"), "half").unwrap();
    assert_eq!(contents(&bench.fetch(4).await.unwrap()), expected);
    bench.shelf.delete(&[4, 5]).await.unwrap();
    assert_eq!(bench.shelf.steps().await.unwrap(), [12].into());
    assert!(bench.store.inner.get(&Bench::path(4, "config.json")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn failures_that_pass_are_outlived_and_others_are_not_repeated_for_ever() {
    let bench = Bench::new();
    let dir = bench.local(RUN, 4);
    bench.set(Mood::FailsFor(RETRIES));
    bench.shelf.upload(&dir).await.unwrap();
    bench.set(Mood::FailsFor(RETRIES));
    bench.fetch(4).await.unwrap();
    bench.set(Mood::FailsFor(99));
    let error = bench.shelf.upload(&dir).await.unwrap_err().to_string();
    for part in ["writing run-", "failed 3 times at s3://runs/a", "store.retries_max", "503"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(bench.requests(), RETRIES + 1);
}

#[tokio::test]
async fn a_denied_write_is_said_once_and_not_repeated() {
    let bench = Bench::new();
    bench.set(Mood::RefusesWrites);
    let error = bench.shelf.upload(&bench.local(RUN, 4)).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("credentials in the environment"), "{error}");
    assert_eq!(bench.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_says_nothing_is_given_up_by_name() {
    let bench = Bench::new();
    bench.set(Mood::Silent);
    let error = bench.shelf.upload(&bench.local(RUN, 4)).await.unwrap_err().to_string();
    for part in ["failed 3 times at s3://runs/a", "store.timeout_ms", "took longer than 9000 ms"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// Wherever an upload breaks off, nothing or the checkpoint of before counts.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_half_there_is_none() {
    let whole = Bench::new();
    whole.shelf.upload(&whole.local(RUN, 4)).await.unwrap();
    let writes = whole.requests();
    assert_eq!(writes, 4);
    for after in 0..writes {
        let bench = Bench::new();
        let (older, dir) = (bench.local(RUN, 2), bench.local(RUN, 4));
        bench.shelf.upload(&older).await.unwrap();
        // Another checkpoint of that step was there: it must not be mixed with the new one.
        bench.shelf.upload(&dir).await.unwrap();
        bench.set(Mood::BreaksAfter(after));
        bench.shelf.upload(&dir).await.unwrap_err();
        bench.set(Mood::Sound);
        assert_eq!(bench.shelf.steps().await.unwrap(), [2].into(), "broke after {after}");
        let error = bench.error(4).await;
        assert!(
            error.contains("has no run-") && error.contains("did not come to its end"),
            "{error}"
        );
        bench.fetch(2).await.unwrap();
    }
}

#[tokio::test]
async fn row_16_damaged_cut_and_lacking_files_are_refused() {
    let bench = Bench::new();
    bench.shelf.upload(&bench.local(RUN, 4)).await.unwrap();
    let path = Bench::path(4, "model.safetensors");
    let sound = bench.store.inner.get(&path).await.unwrap().bytes().await.unwrap();
    let mut flipped = sound.to_vec();
    flipped[100] ^= 1;
    for damage in [flipped, sound[..sound.len() - 1].to_vec()] {
        bench.store.inner.put(&path, damage.into()).await.unwrap();
        let error = bench.error(4).await;
        let hash = Hash::of(&sound).to_string();
        assert!(error.contains("model.safetensors at s3://runs/a is damaged"), "{error}");
        assert!(error.contains(&format!("state.json says {hash}")), "{error}");
    }
    bench.store.inner.delete(&path).await.unwrap();
    let error = bench.error(4).await;
    assert!(error.contains("model.safetensors") && error.contains("it is not there"), "{error}");
    let state = Bench::path(4, STATE);
    bench.store.inner.put(&state, b"{}".to_vec().into()).await.unwrap();
    assert!(bench.error(4).await.contains("state.json at s3://runs/a is damaged"));
    let other = sealed_text(RUN, 5, &[]);
    bench.store.inner.put(&state, other.into_bytes().into()).await.unwrap();
    assert!(bench.error(4).await.contains("it is of step 5"));
}

#[tokio::test]
async fn another_runs_checkpoint_is_neither_stored_nor_taken() {
    let bench = Bench::new();
    let error = bench.shelf.upload(&bench.local(RUN + 1, 4)).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherRun { .. }), "{error}");
    let other = sealed_text(RUN + 1, 4, &[]);
    bench.store.inner.put(&Bench::path(4, STATE), other.into_bytes().into()).await.unwrap();
    assert!(bench.error(4).await.contains("is of another run: choose another store.url"));
}

#[tokio::test]
async fn a_checkpoint_that_does_not_fit_is_not_fetched() {
    let bench = Bench::new();
    bench.shelf.upload(&bench.local(RUN, 4)).await.unwrap();
    let room = Checkpoint { free_bytes_min: u64::MAX / 2, ..Checkpoint::default() };
    let to = bench.dir.path().join("fetched");
    let error = bench.shelf.download(4, &to, &room).await.unwrap_err().to_string();
    assert!(error.contains("checkpoint.free_bytes_min"), "{error}");
}

fn settings(url: &str) -> StoreSettings {
    StoreSettings { url: url.to_owned(), retries_max: 0, ..StoreSettings::default() }
}

#[tokio::test]
async fn a_directory_is_a_store() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(&format!("file://{}", root.path().display())));
    let store = store.unwrap().unwrap().in_parts(PART_BYTES);
    let shelf = Shelf::new(store, run_name(RUN));
    assert!(shelf.steps().await.unwrap().is_empty(), "nothing was stored yet");
    let bench = Bench::new();
    let dir = bench.local(RUN, 4);
    shelf.upload(&dir).await.unwrap();
    assert_eq!(shelf.steps().await.unwrap(), [4].into());
    let to = bench.dir.path().join("fetched");
    shelf.download(4, &to, &Checkpoint::default()).await.unwrap();
    let mut expected = contents(&dir);
    expected.remove("evaluation.json");
    assert_eq!(contents(&to), expected);
    let stored = root.path().join("run-0000000000000007/checkpoints/step-000004");
    assert_eq!(contents(&stored), expected, "and as files they are where one looks for them");
    fs::write(stored.join("config.json"), "{").unwrap();
    let error = shelf.download(4, &to, &Checkpoint::default()).await.unwrap_err().to_string();
    assert!(error.contains("config.json at file://") && error.contains("is damaged"), "{error}");
    shelf.delete(&[4]).await.unwrap();
    assert!(!stored.exists());
}

#[tokio::test]
async fn what_cannot_be_opened_says_the_way_out() {
    let root = tempfile::tempdir().unwrap();
    let absent = format!("file://{}/absent", root.path().display());
    let error = Store::open(&settings(&absent)).unwrap_err().to_string();
    assert!(error.contains("/absent, which is not there: make it, or mount"), "{error}");
    let error = Store::open(&settings("az://runs")).unwrap_err().to_string();
    assert!(error.contains("az is unknown"), "{error}");
    assert!(Store::open(&settings("")).unwrap().is_none());
    let error = StoreError::NoCloud("s3://runs/a".to_owned()).to_string();
    assert!(error.contains("s3://runs/a") && error.contains("--features cloud"), "{error}");
}
