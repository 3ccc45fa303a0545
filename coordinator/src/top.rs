//! `coordinator top`: a run under way on one screen of a terminal, drawn anew every second. It asks
//! as `status` does and changes nothing; what the screen shows is `view`'s.

mod feed;
mod picture;
mod view;

use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use anyhow::Context;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use runtime::{Shutdown, TaskGroup};

use crate::cli::{LiveRunArgs, UsageError};
use feed::Feed;
use picture::Picture;

/// From one drawing to the next.
const REFRESH: Duration = Duration::from_secs(1);
/// A key is noticed within this time.
const KEY_LOOK: Duration = Duration::from_millis(50);
/// What the task that listens for signals may still take.
const JOIN_GRACE: Duration = Duration::from_millis(200);

/// Returns the exit code.
///
/// # Errors
/// No terminal, no run under way there, or a terminal that cannot be drawn on.
pub fn top(args: &LiveRunArgs) -> anyhow::Result<u8> {
    if !(stdin().is_terminal() && stdout().is_terminal()) {
        let text =
            "this is no terminal, which `coordinator top` draws on: use `coordinator status`";
        return Err(UsageError(text.to_owned()).into());
    }
    let feed = Feed::new(args.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    // It also sees to it that a panic leaves the terminal as it was.
    let terminal = ratatui::try_init().context("cannot draw on this terminal")?;
    let shown = runtime.block_on(show(feed, terminal));
    ratatui::restore();
    shown
}

/// Until a key or a signal ends it.
async fn show(mut feed: Feed, mut terminal: DefaultTerminal) -> anyhow::Result<u8> {
    let signals = Shutdown::new();
    let tasks = TaskGroup::new(Shutdown::new());
    runtime::listen_for_signals(&tasks, signals.clone()).context("cannot listen for signals")?;
    let mut picture = Picture::new(feed.name());
    let code = loop {
        terminal.draw(|frame| frame.render_widget(&picture, frame.area()))?;
        tokio::select! {
            () = signals.wait() => break signals.reason().map_or(1, |reason| reason.exit_code()),
            left = leaving() => break left.map(|()| 0)?,
            () = feed.look(&mut picture) => {}
        }
        terminal.draw(|frame| frame.render_widget(&picture, frame.area()))?;
        tokio::select! {
            () = signals.wait() => break signals.reason().map_or(1, |reason| reason.exit_code()),
            left = leaving() => break left.map(|()| 0)?,
            () = tokio::time::sleep(REFRESH) => {}
        }
    };
    tasks.shutdown().trigger("the view is closed");
    tasks.join(JOIN_GRACE).await?;
    Ok(code)
}

/// Resolves once somebody wants to leave; other keys are passed over.
async fn leaving() -> anyhow::Result<()> {
    loop {
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if is_leaving(&key) => return Ok(()),
                _ => {}
            }
        }
        tokio::time::sleep(KEY_LOOK).await;
    }
}

fn is_leaving(key: &KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let pressed = key.kind == KeyEventKind::Press;
    pressed
        && matches!(
            (key.code, control),
            (KeyCode::Char('q' | 'Q'), false) | (KeyCode::Char('c'), true)
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_and_control_c_leave_and_nothing_else_does() {
        let key = |code, modifiers| is_leaving(&KeyEvent::new(code, modifiers));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(key(KeyCode::Char('Q'), KeyModifiers::SHIFT));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(!key(KeyCode::Char('q'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Enter, KeyModifiers::NONE));
    }
}
