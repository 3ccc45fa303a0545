//! Whether there is room where a process writes: a gauge, and a latch that is lost below what is to
//! stay free. How often to look is the caller's, how to look is handed over.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use crate::{Gauge, Readiness};

/// The latch's name on `/readyz`.
const LATCH: &str = "disk";

/// One directory that is looked at.
#[derive(Clone)]
pub struct DiskWatch {
    pub dir: PathBuf,
    /// To stay free on its file system.
    pub reserve_bytes: u64,
    pub gauge: &'static Gauge,
    pub readiness: Readiness,
    pub free_bytes: fn(&Path) -> io::Result<u64>,
}

impl DiskWatch {
    /// Between two looks.
    pub const PERIOD: Duration = Duration::from_secs(5);

    /// Brings gauge and latch up to date; where the system does not say, they stay.
    pub fn look(&self) {
        match (self.free_bytes)(&self.dir) {
            Ok(free) => {
                self.gauge.set(free as f64, &[]);
                let (room, reserve) = (free >= self.reserve_bytes, self.reserve_bytes);
                if self.readiness.keep(LATCH, room) && !room {
                    warn!(dir = %self.dir.display(), free, reserve, "the disk is nearly full");
                }
            }
            Err(error) => warn!(dir = %self.dir.display(), %error, "the free space is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics::with_local_recorder;

    use super::*;
    use crate::Exporter;

    static FREE: Gauge = Gauge::new("tandem_learner_disk_free_bytes", "Free.");

    #[test]
    fn row_14_a_disk_that_fills_up_is_seen_and_a_cleared_one_too() {
        let (recorder, exporter) = Exporter::build(&[]).unwrap();
        let readiness = Readiness::new(&[]);
        let watch = |free_bytes| DiskWatch {
            dir: PathBuf::from("/run"),
            reserve_bytes: 100,
            gauge: &FREE,
            readiness: readiness.clone(),
            free_bytes,
        };
        type Probe = fn(&Path) -> io::Result<u64>;
        let cases: [(Probe, &str, &[&str]); 4] = [
            (|_| Ok(100), "tandem_learner_disk_free_bytes 100", &[]),
            (|_| Ok(99), "tandem_learner_disk_free_bytes 99", &["disk"]),
            (
                |_| Err(io::ErrorKind::NotFound.into()),
                "tandem_learner_disk_free_bytes 99",
                &["disk"],
            ),
            (|_| Ok(101), "tandem_learner_disk_free_bytes 101", &[]),
        ];
        for (free, told, missing) in cases {
            with_local_recorder(&recorder, || watch(free).look());
            assert!(exporter.render().contains(told), "{}", exporter.render());
            assert_eq!(readiness.missing(), missing, "{told}");
        }
    }
}
