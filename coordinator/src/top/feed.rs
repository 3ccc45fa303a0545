//! Where the picture comes from: the coordinator's answers, and the lines that `metrics.jsonl` has
//! got since the last look. It decides nothing.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::CoordinatorClient;
use runtime::within;
use serde::Deserialize;

use super::picture::{Picture, Step};
use crate::cli::LiveRunArgs;
use crate::run_dir::RunDir;
use crate::status::Target;

/// A coordinator that has not answered by then is shown as one that does not.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Of `metrics.jsonl` at one look, from its end: what is older is not shown.
const TAIL_BYTES_MAX: u64 = 1 << 20;

pub(super) struct Feed {
    of: LiveRunArgs,
    client: Option<CoordinatorClient>,
    tail: Option<Tail>,
    started: Instant,
}

impl Feed {
    /// # Errors
    /// No run there, or none that is under way.
    pub(super) fn new(of: LiveRunArgs) -> anyhow::Result<Self> {
        let tail = match &of.run {
            Some(run) => Some(Tail::new(RunDir::open(run)?.metrics())),
            None => None,
        };
        Target::new(&of)?;
        Ok(Self { of, client: None, tail, started: Instant::now() })
    }

    /// What the view is called.
    pub(super) fn name(&self) -> String {
        match (&self.of.run, &self.of.coordinator) {
            (Some(run), _) => run.display().to_string(),
            (None, address) => address.clone().unwrap_or_default(),
        }
    }

    /// Brings the picture up to date. A look that is called off changes nothing.
    pub(super) async fn look(&mut self, picture: &mut Picture) {
        let asked = self.ask().await;
        match asked {
            Ok(inspection) => {
                let wall = self.started.elapsed();
                // Lines of a file say when a step was committed; an answer only what it is now.
                let from_answers = self.tail.is_none();
                picture.inspected(inspection, from_answers.then_some(wall));
            }
            Err(error) => {
                self.client = None;
                picture.failed(&format!("{error:#}"));
            }
        }
        if let Some(tail) = &mut self.tail {
            match tail.read() {
                Ok(News::None) => {}
                Ok(News::More(steps)) => picture.went_on(steps),
                Ok(News::Anew(steps)) => picture.begins(steps),
                Err(error) => picture.failed(&format!("{}: {error}", tail.path.display())),
            }
        }
    }

    async fn ask(&mut self) -> anyhow::Result<proto::Inspection> {
        let mut client = match self.client.take() {
            Some(client) => client,
            // Another coordinator may have taken over, at another address.
            None => {
                within("the coordinator", ANSWER_MAX, Target::new(&self.of)?.connect()).await??
            }
        };
        let answer = within("the coordinator", ANSWER_MAX, client.inspect()).await??;
        self.client = Some(client);
        Ok(answer)
    }
}

/// What a file has to tell.
enum News {
    None,
    More(Vec<Step>),
    /// It was replaced: steps were undone.
    Anew(Vec<Step>),
}

/// A file of lines that grows, or is replaced by another.
struct Tail {
    path: PathBuf,
    inode: u64,
    /// Where the first line begins that was not read.
    offset: u64,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, inode: 0, offset: 0 }
    }

    fn read(&mut self) -> io::Result<News> {
        let Some((mut file, length, inode)) = open(&self.path)? else { return Ok(News::None) };
        let anew = inode != self.inode || length < self.offset;
        if anew {
            (self.inode, self.offset) = (inode, 0);
        }
        let from = self.offset.max(length.saturating_sub(TAIL_BYTES_MAX));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.offset = from + end as u64;
        // The first of them may be the rest of a line: it is none, as any other damaged one.
        let lines = bytes[..end].split(|byte| *byte == b'\n');
        let steps: Vec<Step> = lines.filter_map(step).collect();
        Ok(match (anew, steps.is_empty()) {
            (true, _) => News::Anew(steps),
            (false, true) => News::None,
            (false, false) => News::More(steps),
        })
    }
}

fn open(path: &Path) -> io::Result<Option<(File, u64, u64)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let found = file.metadata()?;
    Ok(Some((file, found.len(), found.ino())))
}

fn step(line: &[u8]) -> Option<Step> {
    #[derive(Deserialize)]
    struct Line {
        step: u32,
        wall_seconds: f64,
        values: std::collections::BTreeMap<String, f64>,
    }
    let Line { step, wall_seconds, values } = serde_json::from_slice(line).ok()?;
    Some(Step { step, wall_seconds, values })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(step: u32) -> String {
        format!("{{\"step\":{step},\"wall_seconds\":{step}.5,\"values\":{{\"loss\":1.0}}}}\n")
    }

    fn numbers(news: News) -> (&'static str, Vec<u32>) {
        let of = |steps: Vec<Step>| steps.iter().map(|step| step.step).collect();
        match news {
            News::None => ("none", Vec::new()),
            News::More(steps) => ("more", of(steps)),
            News::Anew(steps) => ("anew", of(steps)),
        }
    }

    #[test]
    fn lines_are_read_once_and_anew_where_the_file_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut tail = Tail::new(path.clone());
        assert_eq!(numbers(tail.read().unwrap()).0, "none");
        fs::write(&path, line(1) + &line(2) + &line(3)[..9]).unwrap();
        assert_eq!(numbers(tail.read().unwrap()), ("anew", vec![1, 2]));
        assert_eq!(numbers(tail.read().unwrap()).0, "none", "a part of a line is none");
        fs::write(&path, line(1) + &line(2) + &line(3)).unwrap();
        assert_eq!(numbers(tail.read().unwrap()), ("more", vec![3]));
        let other = dir.path().join("other");
        fs::write(&other, line(1) + &line(2) + &line(3) + &line(4)).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(numbers(tail.read().unwrap()), ("anew", vec![1, 2, 3, 4]));
    }

    #[test]
    fn of_a_long_file_only_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let text: String = (1..=40_000).map(line).collect();
        assert!(text.len() as u64 > TAIL_BYTES_MAX);
        fs::write(&path, &text).unwrap();
        let (kind, steps) = numbers(Tail::new(path).read().unwrap());
        assert_eq!((kind, steps.last()), ("anew", Some(&40_000)));
        assert!((1..40_000).contains(&steps.len()), "{}", steps.len());
    }
}
