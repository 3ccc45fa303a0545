//! Which store an address stands for. Credentials are read from the environment here, by the
//! library that knows each store's variables, and nowhere else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use settings::{StoreKind, StorePlace};

use crate::StoreError;

/// What is done with requests that fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Of one try.
    pub(crate) timeout: Duration,
    pub(crate) retries: u32,
}

impl Patience {
    /// All tries together.
    pub(crate) fn over_all(self) -> Duration {
        self.timeout.saturating_mul(self.retries.saturating_add(1))
    }
}

/// A store, and whether its client repeats requests by itself.
pub(crate) type Opened = (Arc<dyn ObjectStore>, bool);

/// # Errors
/// A store that this build does not know, or that is not there.
pub(crate) fn open(
    place: &StorePlace,
    url: &str,
    patience: Patience,
) -> Result<Opened, StoreError> {
    match place.kind {
        StoreKind::File => {
            let dir = Path::new(&place.prefix);
            if !dir.is_dir() {
                return Err(StoreError::NoDirectory(dir.to_owned()));
            }
            let files = LocalFileSystem::new_with_prefix(dir).map_err(|e| unusable(url, &e))?;
            Ok((Arc::new(files.with_automatic_cleanup(true)), false))
        }
        StoreKind::S3 | StoreKind::Gcs => cloud(place, url, patience),
    }
}

#[cfg(not(feature = "cloud"))]
fn cloud(_: &StorePlace, url: &str, _: Patience) -> Result<Opened, StoreError> {
    Err(StoreError::NoCloud(url.to_owned()))
}

#[cfg(feature = "cloud")]
fn cloud(place: &StorePlace, url: &str, patience: Patience) -> Result<Opened, StoreError> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};

    // Somebody may have chosen already; there is only one to choose.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: patience.retries as usize,
        retry_timeout: patience.over_all(),
    };
    let limit = format!("{}ms", patience.timeout.as_millis());
    let (bucket, limits) =
        (&place.bucket, [ClientConfigKey::Timeout, ClientConfigKey::ConnectTimeout]);
    let opened: Result<Arc<dyn ObjectStore>, object_store::Error> = if place.kind == StoreKind::Gcs
    {
        let mut gcs = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
        for key in limits {
            gcs = gcs.with_config(GoogleConfigKey::Client(key), &limit);
        }
        gcs.with_retry(retry).build().map(|store| Arc::new(store) as _)
    } else {
        let mut s3 = AmazonS3Builder::from_env().with_bucket_name(bucket);
        for key in limits {
            s3 = s3.with_config(AmazonS3ConfigKey::Client(key), &limit);
        }
        s3.with_retry(retry).build().map(|store| Arc::new(store) as _)
    };
    let store = opened.map_err(|error| unusable(url, &error))?;
    Ok((store, true))
}

fn unusable(url: &str, error: &object_store::Error) -> StoreError {
    StoreError::Unusable { place: url.to_owned(), cause: error.to_string() }
}
