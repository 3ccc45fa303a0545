//! TensorBoard: event files in a directory, each begun by a word on what is void of the earlier ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::event_file::Event;
use super::history::History;
use super::now_ms;
use super::queue::Status;
use super::record::Record;
use super::worker::{Sink, SinkError};

const PREFIX: &str = "events.out.tfevents.";

#[derive(Debug)]
pub(super) struct TensorboardSink {
    dir: PathBuf,
    /// None: the next point begins another one.
    file: Option<File>,
    /// The first step whose points in earlier files are void, until a file says so. The first file
    /// of all says so too: TensorBoard takes only later ones' word for it.
    void_from: Option<u32>,
}

impl TensorboardSink {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, file: None, void_from: Some(0) }
    }

    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let now_ms = now_ms();
                bytes.extend(Event::version(now_ms).frame());
                let void = self.void_from.map(|step| Event::purge(now_ms, step).frame());
                bytes.extend(void.unwrap_or_default());
                next_file(&self.dir, now_ms / 1_000)?
            }
        };
        for Record { step, at_ms, points } in records {
            bytes.extend(Event::scalars(*at_ms, *step, points).frame());
        }
        // A file whose last frame may be torn is not gone on with.
        file.write_all(&bytes)?;
        (self.file, self.void_from) = (Some(file), None);
        Ok(())
    }

    fn passing(&self, cause: &io::Error) -> SinkError {
        SinkError::Passing(format!("cannot write into {}: {cause}", self.dir.display()))
    }
}

impl Sink for TensorboardSink {
    fn name(&self) -> &'static str {
        "tensorboard"
    }

    /// What an earlier coordinator wrote, perhaps not to its end, is written anew.
    fn begin(&mut self, history: &History) -> Result<(), SinkError> {
        let records = history.records()?;
        self.write(&records).map_err(|cause| self.passing(&cause))
    }

    fn put(&mut self, records: &[Record]) -> Result<(), SinkError> {
        self.write(records).map_err(|cause| self.passing(&cause))
    }

    fn undone(&mut self, step: u32, _: &History) -> Result<(), SinkError> {
        let void_from = self.void_from.map_or(step + 1, |earlier| earlier.min(step + 1));
        (self.file, self.void_from) = (None, Some(void_from));
        Ok(())
    }

    fn end(&mut self, _: Status) -> Result<(), SinkError> {
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_all().map_err(|cause| self.passing(&cause))
    }
}

/// A file that readers come to after all that are there: they go by names.
fn next_file(dir: &Path, now_seconds: u64) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let seconds = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok()
    };
    let last = fs::read_dir(dir)?.filter_map(|entry| seconds(entry.ok()?)).max();
    let number = last.map_or(now_seconds, |last| now_seconds.max(last + 1));
    let path = dir.join(format!("{PREFIX}{number:010}.tandem"));
    OpenOptions::new().create_new(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u32) -> Record {
        Record { step, at_ms: 1_000, points: vec![("train/loss".to_owned(), 0.5)] }
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_begins_with_what_is_void_and_each_begins_after_the_last() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("tensorboard");
        let mut sink = TensorboardSink::new(dir.clone());
        sink.begin(&History::none()).unwrap();
        assert!(!dir.exists(), "there is nothing to write yet");
        sink.put(&[record(1), record(2)]).unwrap();
        sink.put(&[record(3)]).unwrap();
        sink.undone(1, &History::none()).unwrap();
        sink.put(&[record(2)]).unwrap();
        sink.end(Status::Done).unwrap();
        let names = names(&dir);
        assert_eq!(names.len(), 2, "{names:?}");
        let second = fs::read(dir.join(&names[1])).unwrap();
        let head = |from| {
            // Of any moment but 0, which takes no bytes.
            Event::version(1).frame().len() + Event::purge(1, from).frame().len()
        };
        let first = fs::read(dir.join(&names[0])).unwrap();
        let one = Event::scalars(1_000, 1, &record(1).points).frame();
        assert_eq!(&first[head(0)..head(0) + one.len()], one, "a session begins with the first");
        let scalars = Event::scalars(1_000, 2, &record(2).points).frame();
        assert_eq!(&second[head(2)..], scalars, "the second file has the step that came anew");
    }

    #[test]
    fn a_clock_that_went_back_does_not_hide_a_file() {
        let root = tempfile::tempdir().unwrap();
        next_file(root.path(), 2_000).unwrap();
        next_file(root.path(), 1_000).unwrap();
        next_file(root.path(), 5_000).unwrap();
        let seconds = ["0000002000", "0000002001", "0000005000"];
        assert_eq!(names(root.path()), seconds.map(|s| format!("{PREFIX}{s}.tandem")));
    }
}
