//! One tracker's thread: takes from the queue, tries again what may go by itself, gives up what does
//! not. It never fails; where the points go is the sink's.

use std::sync::Arc;
use std::time::Duration;

use super::history::History;
use super::queue::{Next, Queue, Status};
use super::record::Record;

/// Between the first try and the second; it doubles from try to try.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Why something did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum SinkError {
    /// The next try may do better.
    #[error("{0}")]
    Passing(String),
    /// No other try will.
    #[error("{0}")]
    Lasting(String),
}

/// Where points go.
pub(super) trait Sink: Send {
    /// One of the metric's labels.
    fn name(&self) -> &'static str;

    /// Makes ready, with what the run has done so far.
    fn begin(&mut self, history: &History) -> Result<(), SinkError>;

    fn put(&mut self, records: &[Record]) -> Result<(), SinkError>;

    /// What was put of later steps is void.
    fn undone(&mut self, step: u32, history: &History) -> Result<(), SinkError>;

    fn end(&mut self, status: Status) -> Result<(), SinkError>;
}

pub(super) struct Worker {
    sink: Box<dyn Sink>,
    queue: Arc<Queue>,
    history: History,
    pause: Duration,
    /// Whether it was logged that points are dropped.
    told: bool,
}

impl Worker {
    pub(super) fn new(sink: Box<dyn Sink>, queue: Arc<Queue>, history: History) -> Self {
        Self { sink, queue, history, pause: PAUSE, told: false }
    }

    /// Until the queue's end.
    pub(super) fn run(mut self) {
        let history = self.history.clone();
        if !self.persist("begin", |sink| sink.begin(&history)) {
            return self.refuse_all();
        }
        loop {
            match self.queue.next() {
                Next::Records(records) => self.put(&records),
                Next::Undone(step) => {
                    let history = self.history.up_to(step);
                    self.persist("take back", |sink| sink.undone(step, &history));
                }
                Next::End(status) => {
                    if let Err(error) = self.sink.end(status) {
                        let tracker = self.queue.tracker();
                        tracing::warn!(tracker, %error, "the end of the run is not with the tracker");
                    }
                    return;
                }
            }
        }
    }

    fn put(&mut self, records: &[Record]) {
        // A sink that begins anew needs what was before the first step too.
        self.history.note(records);
        match self.persist("put", |sink| sink.put(records)) {
            true => self.queue.written(records),
            false => self.queue.dropped(records),
        }
    }

    /// Tries until it is done, or cannot be; false where it was given up.
    fn persist(
        &mut self,
        what: &'static str,
        act: impl Fn(&mut dyn Sink) -> Result<(), SinkError>,
    ) -> bool {
        let (tracker, mut pause, mut tries) = (self.queue.tracker(), self.pause, 0_u32);
        loop {
            let over = self.queue.is_closed();
            match act(self.sink.as_mut()) {
                Ok(()) if tries > 0 => {
                    tracing::info!(tracker, tries, "the tracker answers again");
                    return true;
                }
                Ok(()) => return true,
                Err(SinkError::Passing(error)) if !over => {
                    if tries == 0 {
                        tracing::warn!(tracker, error, "a tracker does not take points, they wait");
                    }
                    tries += 1;
                    self.queue.pause(pause);
                    pause = (2 * pause).min(PAUSE_MAX);
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        tracing::warn!(tracker, what, %error, "points of a tracker are dropped");
                    }
                    return false;
                }
            }
        }
    }

    /// Nothing will arrive: the run goes on without this tracker.
    fn refuse_all(&self) {
        loop {
            match self.queue.next() {
                Next::Records(records) => self.queue.dropped(&records),
                Next::Undone(_) => {}
                Next::End(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Fails as often as it is told to, and remembers what it was given.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<(u32, bool, Vec<String>)>>);

    impl Fake {
        fn act(&self, what: String) -> Result<(), SinkError> {
            let mut state = self.0.lock().unwrap();
            let (failures, lasting, seen) = &mut *state;
            if *failures > 0 {
                *failures -= 1;
                let text = "no".to_owned();
                let (passing, lasts) = (SinkError::Passing, SinkError::Lasting);
                return Err(if *lasting { lasts(text) } else { passing(text) });
            }
            seen.push(what);
            Ok(())
        }
    }

    impl Sink for Fake {
        fn name(&self) -> &'static str {
            "mlflow"
        }

        fn begin(&mut self, _: &History) -> Result<(), SinkError> {
            self.act("begin".to_owned())
        }

        fn put(&mut self, records: &[Record]) -> Result<(), SinkError> {
            let steps: Vec<u32> = records.iter().map(|record| record.step).collect();
            self.act(format!("put {steps:?}"))
        }

        fn undone(&mut self, step: u32, _: &History) -> Result<(), SinkError> {
            self.act(format!("undone {step}"))
        }

        fn end(&mut self, status: Status) -> Result<(), SinkError> {
            self.act(format!("end {status:?}"))
        }
    }

    fn seen(failures: u32, lasting: bool) -> Vec<String> {
        let fake = Fake::default();
        *fake.0.lock().unwrap() = (failures, lasting, Vec::new());
        let queue = Arc::new(Queue::new("mlflow", 10));
        let mut worker = Worker::new(Box::new(fake.clone()), Arc::clone(&queue), History::none());
        worker.pause = Duration::ZERO;
        let record = |step| Record { step, at_ms: 0, points: Vec::new() };
        queue.push(record(1));
        queue.push(record(2));
        queue.undone(1);
        let thread = std::thread::spawn(move || worker.run());
        if failures == 0 || !lasting {
            // Only an open queue has another try.
            let all = || (fake.0.lock().unwrap().2.len() == 3).then_some(());
            ::tests::wait_until("all of it", Duration::from_secs(60), all);
        }
        queue.close(Status::Done);
        thread.join().unwrap();
        fake.0.lock().unwrap().2.clone()
    }

    #[test]
    fn what_may_go_by_itself_is_tried_again_and_nothing_is_lost() {
        let expected = ["begin", "put [1]", "undone 1", "end Done"];
        assert_eq!(seen(0, false), expected);
        assert_eq!(seen(5, false), expected);
    }

    #[test]
    fn what_never_will_is_given_up_and_the_thread_ends() {
        assert_eq!(seen(1, true), Vec::<String>::new(), "without a beginning there is nothing");
    }
}
