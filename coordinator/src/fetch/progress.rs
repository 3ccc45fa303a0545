//! How far a download is: a bar on a terminal, otherwise lines. All of it goes to standard error,
//! so that standard output holds the result alone.

use std::io::IsTerminal;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

const STYLE: &str = "{msg}  {bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
/// Without a terminal, one line per so many parts of a file.
const PARTS: u64 = 10;
/// Smaller files are not told of in parts.
const PARTS_BYTES_MIN: u64 = 100 << 20;

pub(super) struct Progress {
    file: String,
    bytes: u64,
    bar: Option<ProgressBar>,
    /// Parts told of.
    told: u64,
}

impl Progress {
    /// `held` of `bytes` are here already.
    pub(super) fn start(file: &str, held: u64, bytes: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr();
            let style = ProgressStyle::with_template(STYLE).expect("the template is a constant");
            let bar = ProgressBar::with_draw_target(Some(bytes), target).with_style(style);
            bar.set_message(file.to_owned());
            bar.set_position(held);
            bar
        });
        if bar.is_none() {
            let rest =
                if held > 0 { format!(", from {}", HumanBytes(held)) } else { String::new() };
            eprintln!("fetching {file}, {}{rest}", HumanBytes(bytes));
        }
        Self { file: file.to_owned(), bytes, bar, told: part(held, bytes) }
    }

    /// So many bytes are here.
    pub(super) fn at(&mut self, held: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(held);
            return;
        }
        let part = part(held, self.bytes);
        if part > self.told && part < PARTS && self.bytes >= PARTS_BYTES_MIN {
            let (held, bytes) = (HumanBytes(held), HumanBytes(self.bytes));
            eprintln!("{}: {held} of {bytes}", self.file);
        }
        self.told = part;
    }

    pub(super) fn finish(self) {
        match self.bar {
            Some(bar) => bar.finish(),
            None => eprintln!("fetched and checked {}", self.file),
        }
    }

    /// For a file that the cache has.
    pub(super) fn unchanged(file: &str, bytes: u64) {
        eprintln!("{file}, {}, is in the cache", HumanBytes(bytes));
    }
}

fn part(held: u64, bytes: u64) -> u64 {
    (held * PARTS).checked_div(bytes).unwrap_or(PARTS)
}
