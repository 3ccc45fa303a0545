//! The life-line from a child to the process that started it: a pipe on standard input that
//! closes when the parent is gone, by whatever means. The other end is held by `Child`.

use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use tracing::warn;

use crate::{Shutdown, StopReason};

/// Call it in a process that was started with a piped standard input. When the pipe closes, the
/// shutdown is triggered; if the process is still alive after `grace`, it exits with 1.
///
/// The thread is the one that no group joins: a blocking read cannot be called off, so it ends
/// with the process.
pub fn exit_with_parent(shutdown: Shutdown, grace: Duration) -> io::Result<()> {
    let body = move || {
        until_closed(io::stdin().lock());
        shutdown.trigger(StopReason::ParentGone);
        thread::sleep(grace);
        warn!(grace_ms = grace.as_millis(), "still alive without a parent, exiting");
        std::process::exit(1);
    };
    thread::Builder::new().name("parent-watch".to_owned()).spawn(body)?;
    Ok(())
}

/// The same for a process that sees to its own end at SIGTERM: when the pipe closes it gets one.
pub fn terminate_with_parent(grace: Duration) -> io::Result<()> {
    let body = move || {
        until_closed(io::stdin().lock());
        if let Err(failure) = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM) {
            warn!(%failure, "cannot ask this process to stop");
        }
        thread::sleep(grace);
        warn!(grace_ms = grace.as_millis(), "still alive without a parent, exiting");
        std::process::exit(1);
    };
    thread::Builder::new().name("parent-watch".to_owned()).spawn(body)?;
    Ok(())
}

/// Reads until the other end is closed. A broken pipe counts as closed: either way there is no
/// parent that would ever speak again.
fn until_closed(mut pipe: impl Read) {
    let mut ignored = [0u8; 64];
    loop {
        match pipe.read(&mut ignored) {
            Ok(0) => return,
            Ok(_) => {}
            Err(failure) if failure.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_the_closed_pipe_ends_the_watch() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let (ended, has_ended) = mpsc::channel();
        let watch = thread::spawn(move || {
            until_closed(reader);
            ended.send(()).expect("the test waits");
        });
        writer.write_all(b"what is written is ignored").expect("the reader is there");
        assert_eq!(has_ended.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(writer);
        has_ended.recv_timeout(Duration::from_secs(30)).expect("the closed pipe ends the watch");
        watch.join().expect("the watch does not panic");
    }
}
