//! Requests to a store: each has a deadline, is repeated while that may help, and no more often
//! than settings say. What keys mean is `shelf`'s.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt, TryStreamExt, iter};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use runtime::{Attempt, RetryPolicy, off_workers, retry, within};

use crate::StoreError;
use crate::backend::{self, Patience};

/// Parts of one file that are under way at once.
const PARTS_AT_ONCE: usize = 4;
/// Of one file, as S3 has it.
const PARTS_MAX: u64 = 10_000;
/// Of an object that is read whole into memory.
const SMALL_BYTES_MAX: u64 = 16 << 20;

/// An open store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Within the bucket or directory.
    prefix: String,
    /// As the settings have it, for messages.
    place: Arc<str>,
    part_bytes: u64,
    /// Of one call of the client, with what it repeats by itself.
    limit: Duration,
    policy: RetryPolicy,
}

/// What is to be stored.
#[derive(Clone, Copy)]
enum Source<'a> {
    File(&'a Arc<File>),
    Bytes(&'a [u8]),
}

/// Why one try failed.
enum Fault {
    Store(Error),
    Late(runtime::DeadlineExceeded),
    /// A file on this machine.
    Local(io::Error),
}

impl Store {
    /// None where there is none.
    ///
    /// # Errors
    /// An address that is none, or a store that cannot be used.
    pub fn open(settings: &settings::Store) -> Result<Option<Self>, StoreError> {
        let Some(place) = settings.place().map_err(StoreError::Address)? else { return Ok(None) };
        let timeout = Duration::from_millis(u64::from(settings.timeout_ms));
        let patience = Patience { timeout, retries: settings.retries_max };
        let (objects, repeats) = backend::open(&place, &settings.url, patience)?;
        // A directory's prefix is where its store is open.
        let prefix = if place.bucket.is_empty() { String::new() } else { place.prefix };
        let store = Self::of(objects, &settings.url, patience, settings.part_bytes);
        Ok(Some(match repeats {
            true => Self {
                prefix,
                limit: patience.over_all(),
                policy: RetryPolicy { attempts: 1, ..store.policy },
                ..store
            },
            false => store,
        }))
    }

    pub(crate) fn of(
        objects: Arc<dyn ObjectStore>,
        place: &str,
        patience: Patience,
        part_bytes: u64,
    ) -> Self {
        Self {
            objects,
            prefix: String::new(),
            place: place.into(),
            part_bytes,
            limit: patience.timeout,
            policy: RetryPolicy {
                attempts: patience.retries.saturating_add(1),
                ..RetryPolicy::default()
            },
        }
    }

    #[cfg(test)]
    pub(crate) fn in_parts(self, part_bytes: u64) -> Self {
        Self { part_bytes, ..self }
    }

    /// For messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}/{key}", self.prefix))
    }

    /// Keys and sizes of all below `dir`; keys begin there.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub(crate) async fn list(&self, dir: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let root = self.path(dir);
        let what = format!("listing {dir}");
        let found = self.tried(&what, || async {
            Ok(self.objects.list(Some(&root)).try_collect::<Vec<_>>().await?)
        });
        let found = match found.await {
            // A directory that nothing was stored in yet.
            Err(StoreError::Missing { .. }) if self.is_directory() => Vec::new(),
            found => found?,
        };
        let key = |path: &Path| {
            let below: Vec<String> =
                path.prefix_match(&root)?.map(|part| part.as_ref().to_owned()).collect();
            Some(below.join("/"))
        };
        Ok(found.iter().filter_map(|of| Some((key(&of.location)?, of.size))).collect())
    }

    fn is_directory(&self) -> bool {
        self.place.starts_with("file:")
    }

    /// # Errors
    /// No such object, one that is too large to be read whole, no answer.
    pub(crate) async fn read(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path(key);
        self.tried(&format!("reading {key}"), || async {
            let found = self.objects.get(&path).await?;
            if found.meta.size > SMALL_BYTES_MAX {
                let large = format!("it has {} bytes", found.meta.size);
                return Err(Fault::Local(io::Error::new(io::ErrorKind::InvalidData, large)));
            }
            Ok(found.bytes().await?.to_vec())
        })
        .await
    }

    /// # Errors
    /// A store that does not answer or refuses.
    pub(crate) async fn write(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(key);
        self.tried(&format!("writing {key}"), || async {
            self.objects.put(&path, PutPayload::from(bytes.to_vec())).await?;
            Ok(())
        })
        .await
    }

    /// Nothing happens where there is none.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let (path, what) = (self.path(key), format!("deleting {key}"));
        let deleted = self.tried(&what, || async { Ok(self.objects.delete(&path).await?) });
        match deleted.await {
            Err(StoreError::Missing { .. }) => Ok(()),
            deleted => deleted,
        }
    }

    /// The first `bytes` of an open file, whatever becomes of its name meanwhile.
    ///
    /// # Errors
    /// A file that cannot be read, a store that does not answer or refuses.
    pub(crate) async fn put_file(
        &self,
        key: &str,
        file: &Arc<File>,
        bytes: u64,
    ) -> Result<(), StoreError> {
        self.put(key, Source::File(file), bytes).await
    }

    /// # Errors
    /// A store that does not answer or refuses.
    pub(crate) async fn put_bytes(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put(key, Source::Bytes(bytes), bytes.len() as u64).await
    }

    async fn put(&self, key: &str, from: Source<'_>, bytes: u64) -> Result<(), StoreError> {
        let what = format!("writing {key}");
        if bytes <= self.part_bytes {
            let whole = from.piece(0..bytes).await;
            let whole = whole.map_err(|error| self.error(&what, 1, Fault::Local(error)))?;
            return self.write(key, &whole).await;
        }
        let path = self.path(key);
        // Each part has the deadline of a request, so that the whole has one.
        let tried = retry(self.policy, &what, || async {
            let sent = async {
                let opened = within(&what, self.limit, self.objects.put_multipart(&path)).await;
                let mut upload = opened.map_err(Fault::Late)??;
                match self.send(upload.as_mut(), &what, (from, bytes)).await {
                    Ok(()) => Ok(()),
                    Err(fault) => {
                        // Where even this fails, the store's own rules clear it away.
                        let _ = within(&what, self.limit, upload.abort()).await;
                        Err(fault)
                    }
                }
            };
            sent.await.map_err(Fault::attempt)
        });
        tried.await.map_err(|gave_up| self.error(&what, gave_up.attempts, gave_up.error))
    }

    async fn send(
        &self,
        upload: &mut dyn MultipartUpload,
        what: &str,
        (from, bytes): (Source<'_>, u64),
    ) -> Result<(), Fault> {
        let mut under_way = FuturesUnordered::new();
        for range in parts(bytes, self.part_bytes) {
            let part = from.piece(range).await.map_err(Fault::Local)?;
            if under_way.len() == PARTS_AT_ONCE {
                arrived(under_way.next().await)?;
            }
            under_way.push(within(what, self.limit, upload.put_part(part.into())));
        }
        while let Some(part) = under_way.next().await {
            arrived(Some(part))?;
        }
        within(what, self.limit, upload.complete()).await.map_err(Fault::Late)??;
        Ok(())
    }

    /// Into a new file, part by part; it is on disk on return.
    ///
    /// # Errors
    /// An object of another size, a file that cannot be written, no answer.
    pub(crate) async fn get_file(
        &self,
        key: &str,
        bytes: u64,
        to: &FilePath,
    ) -> Result<(), StoreError> {
        let local = |cause| StoreError::File { path: to.to_owned(), cause };
        let file = Arc::new(File::create_new(to).map_err(local)?);
        let pieces = self.pieces(key, bytes);
        tokio::pin!(pieces);
        while let Some(part) = pieces.try_next().await? {
            let file = Arc::clone(&file);
            off_workers(move || (&*file).write_all(&part)).await.map_err(local)?;
        }
        off_workers(move || file.sync_all()).await.map_err(local)
    }

    /// The same into memory.
    ///
    /// # Errors
    /// An object of another size, no answer.
    pub(crate) async fn get_bytes(&self, key: &str, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let mut whole = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        let pieces = self.pieces(key, bytes);
        tokio::pin!(pieces);
        while let Some(part) = pieces.try_next().await? {
            whole.extend_from_slice(&part);
        }
        Ok(whole)
    }

    fn pieces(&self, key: &str, bytes: u64) -> impl Stream<Item = Result<Bytes, StoreError>> {
        let (path, what) = (self.path(key), format!("reading {key}"));
        let part = move |range: Range<u64>| {
            let (path, what) = (path.clone(), what.clone());
            async move {
                let tried = self.tried(&what, || async {
                    let part = self.objects.get_range(&path, range.clone()).await?;
                    if part.len() as u64 != range.end - range.start {
                        let cut = format!("it ends before byte {}", range.end);
                        return Err(Fault::Local(io::Error::new(io::ErrorKind::InvalidData, cut)));
                    }
                    Ok(part)
                });
                tried.await
            }
        };
        iter(parts(bytes, self.part_bytes)).map(part).buffered(PARTS_AT_ONCE)
    }

    async fn tried<T, F>(&self, what: &str, op: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let tried = retry(self.policy, what, || async {
            match within(what, self.limit, op()).await {
                Ok(outcome) => outcome.map_err(Fault::attempt),
                Err(late) => Err(Attempt::Again(Fault::Late(late))),
            }
        });
        tried.await.map_err(|gave_up| self.error(what, gave_up.attempts, gave_up.error))
    }

    fn error(&self, what: &str, attempts: u32, fault: Fault) -> StoreError {
        let (place, what, cause) = (self.place.to_string(), what.to_owned(), fault.to_string());
        if fault.is_denied() {
            return StoreError::Denied { what, place, cause };
        }
        match fault {
            Fault::Store(Error::NotFound { path, .. }) => {
                StoreError::Missing { place, key: path, cause }
            }
            fault if fault.lasts() => StoreError::Refused { what, place, cause },
            _ => StoreError::Failed { what, place, attempts, cause },
        }
    }
}

impl Fault {
    /// Another try would end in the same way.
    fn lasts(&self) -> bool {
        match self {
            Self::Late(_) => false,
            Self::Local(_) => true,
            Self::Store(error) => {
                !matches!(error, Error::Generic { .. } | Error::JoinError { .. })
                    || self.is_denied()
            }
        }
    }

    fn is_denied(&self) -> bool {
        let Self::Store(error) = self else { return false };
        if matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) {
            return true;
        }
        let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
        let mut files = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
        files.any(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
    }

    fn attempt(self) -> Attempt<Self> {
        if self.lasts() { Attempt::Stop(self) } else { Attempt::Again(self) }
    }
}

impl Source<'_> {
    async fn piece(self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let place = |at: u64| usize::try_from(at).map_err(io::Error::other);
        match self {
            Self::Bytes(bytes) => Ok(bytes[place(range.start)?..place(range.end)?].to_vec()),
            Self::File(file) => {
                let file = Arc::clone(file);
                let mut bytes = vec![0; place(range.end - range.start)?];
                off_workers(move || {
                    file.read_exact_at(&mut bytes, range.start)?;
                    Ok(bytes)
                })
                .await
            }
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::Late(late) => write!(f, "{late}"),
            Self::Local(error) => write!(f, "{error}"),
        }
    }
}

type Arrived = Option<Result<Result<(), Error>, runtime::DeadlineExceeded>>;

fn arrived(part: Arrived) -> Result<(), Fault> {
    match part {
        Some(part) => Ok(part.map_err(Fault::Late)??),
        None => Ok(()),
    }
}

/// Larger parts than asked for where there would be too many.
fn parts(bytes: u64, part_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let size = part_bytes.max(bytes.div_ceil(PARTS_MAX)).max(1);
    (0..bytes.div_ceil(size)).map(move |part| part * size..((part + 1) * size).min(bytes))
}

/// # Errors
/// A directory that cannot be emptied or made.
pub(crate) fn fresh_dir(path: &FilePath) -> Result<(), StoreError> {
    let emptied = match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(path),
    };
    emptied.map_err(|cause| StoreError::File { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_file_and_are_never_too_many() {
        let of = |bytes, part| parts(bytes, part).collect::<Vec<_>>();
        assert_eq!(of(10, 4), [0..4, 4..8, 8..10]);
        assert_eq!(of(8, 4), [0..4, 4..8]);
        assert_eq!(of(0, 4), [0..0; 0]);
        let many = of(25_000, 1);
        assert_eq!((many.len(), many[0].clone(), many.last().unwrap().end), (8_334, 0..3, 25_000));
    }
}
