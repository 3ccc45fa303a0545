//! The picture on a screen: 80 columns and 24 rows show everything, fewer show what fits. A pure
//! function of picture and area.

use std::time::Duration;

use proto::{Inspection, MemberView};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{LineGauge, Paragraph, Sparkline, Widget};

use super::picture::{Picture, RECENT_STEPS};
use crate::status::{seconds, wait};

/// Numbers of the last steps: their names in `metrics.jsonl`, what they are called here, decimals.
const NUMBERS: [(&str, &str, usize); 7] = [
    ("handoff_success_rate", "handoff success", 3),
    ("reward_mean", "reward", 3),
    ("jargon_rate", "jargon", 3),
    ("weak_token_share", "weak tokens", 3),
    ("staleness_mean", "staleness", 2),
    ("loss", "loss", 4),
    ("kl", "KL", 4),
];
/// Those that have a curve; of the first two, the one that the run has.
const CURVES: [&str; 3] = ["handoff_success_rate", "reward_mean", "jargon_rate"];
const CURVE_NAME_COLUMNS: u16 = 17;
/// Shares are drawn in so many parts.
const CURVE_PARTS: f64 = 1000.0;
/// From so many columns on, what was measured stands beside the numbers.
const TWO_COLUMNS: u16 = 64;
const NUMBERS_COLUMNS: u16 = 38;

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const ACCENT: Style = Style::new().fg(Color::Cyan);

impl Widget for &Picture {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let Some(run) = &self.inspection else {
            let text = self.fault.as_deref().unwrap_or("asking the coordinator…");
            let lines = vec![self.title(area.width), Line::raw(""), Line::raw(text.to_owned())];
            Paragraph::new(lines).render(area, buffer);
            return;
        };
        let (numbers, measured) = (self.numbers(), measured(run));
        let beside = area.width >= TWO_COLUMNS;
        let table = match beside {
            true => numbers.len().max(measured.len()),
            false => numbers.len() + measured.len(),
        };
        let curves = self.curves();
        let rows = [2, 1, table as u16, 1, curves.len() as u16, u16::from(!curves.is_empty())];
        let rows = rows.map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
        let [head, notice, table, _, drawn, _, members] = Layout::vertical(rows).areas(area);
        self.head(run, head, buffer);
        self.notice(run, area.width).render(notice, buffer);
        if beside {
            let columns = [Constraint::Length(NUMBERS_COLUMNS), Constraint::Fill(1)];
            let [left, right] = Layout::horizontal(columns).areas(table);
            Paragraph::new(numbers).render(left, buffer);
            Paragraph::new(measured).render(right, buffer);
        } else {
            Paragraph::new([numbers, measured].concat()).render(table, buffer);
        }
        for (row, name) in (0..drawn.height).zip(curves) {
            let line = Rect { y: drawn.y + row, height: 1, ..drawn };
            self.curve_line(name, line, buffer);
        }
        Paragraph::new(member_lines(run, members)).render(members, buffer);
    }
}

impl Picture {
    fn title(&self, width: u16) -> Line<'static> {
        let (left, right) = (format!("tandem {}", self.name), "q leaves");
        let room = (width as usize).saturating_sub(left.chars().count() + right.len());
        Line::from(vec![
            Span::styled(left, BOLD),
            Span::raw(" ".repeat(room.max(1))),
            Span::styled(right, DIM),
        ])
    }

    /// Two rows: the run's name, and how far it is.
    fn head(&self, run: &Inspection, area: Rect, buffer: &mut Buffer) {
        let [name, bar] = Layout::vertical([Constraint::Length(1); 2]).areas(area);
        self.title(area.width).render(name, buffer);
        let (label, ratio) = match (run.evaluating, run.steps) {
            (Some((done, due)), _) => {
                (format!("{}, {done} of {due} rollouts", run.phase), done as f64 / due as f64)
            }
            (None, 0) => (run.phase.clone(), 0.0),
            (None, steps) => {
                let ratio = f64::from(run.committed) / f64::from(steps);
                (format!("{}, step {} of {steps}", run.phase, run.committed), ratio)
            }
        };
        LineGauge::default()
            .label(label)
            .ratio(ratio.clamp(0.0, 1.0))
            .filled_style(ACCENT)
            .unfilled_style(DIM)
            .render(bar, buffer);
    }

    /// One row: what is wrong, what the run waits for, or how it gets on.
    fn notice(&self, run: &Inspection, width: u16) -> Line<'static> {
        if let Some(fault) = &self.fault {
            return Line::styled(fitted(fault, width), ALARM);
        }
        let mut parts = Vec::new();
        if let Some(rate) = self.steps_per_minute() {
            parts.push(format!("{rate:.1} steps/min"));
        }
        if let Some(left) = self.remaining() {
            parts.push(format!("{} left", span(left)));
        }
        if let Some(version) = run.version {
            parts.push(format!("weights {version}"));
        }
        parts.push(format!("last progress {} ago", seconds(run.idle)));
        if !run.waits.is_empty() {
            parts.push(format!("waits for {}", run.waits.join("; ")));
        }
        Line::raw(fitted(&parts.join(" · "), width))
    }

    fn numbers(&self) -> Vec<Line<'static>> {
        let heading = format!("{:<17}{:>8}{:>9}", "", "last", format!("mean {RECENT_STEPS}"));
        let mut lines = vec![Line::styled(heading, DIM)];
        for (key, name, decimals) in NUMBERS {
            let shown = |value: Option<f64>| {
                value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
            };
            let (last, mean) = (shown(self.last(key)), shown(self.mean(key)));
            lines.push(Line::raw(format!("{name:<17}{last:>8}{mean:>9}")));
        }
        lines
    }

    /// At most two, of shares.
    fn curves(&self) -> Vec<&'static str> {
        let there: Vec<&str> =
            CURVES.into_iter().filter(|name| self.curve(name, 2).len() > 1).collect();
        match there.as_slice() {
            [first, _, last] => vec![first, last],
            some => some.to_vec(),
        }
    }

    fn curve_line(&self, key: &str, area: Rect, buffer: &mut Buffer) {
        let columns = [Constraint::Length(CURVE_NAME_COLUMNS), Constraint::Fill(1)];
        let [name, curve] = Layout::horizontal(columns).areas(area);
        let called = NUMBERS.iter().find(|(known, _, _)| *known == key).map_or(key, |n| n.1);
        Line::raw(called.to_owned()).render(name, buffer);
        let values = self.curve(key, curve.width as usize);
        let parts = values.iter().map(|value| (value.clamp(0.0, 1.0) * CURVE_PARTS) as u64);
        let parts: Vec<u64> = parts.collect();
        Sparkline::default()
            .data(&parts)
            .max(CURVE_PARTS as u64)
            .style(ACCENT)
            .render(curve, buffer);
    }
}

/// What the last evaluation found.
fn measured(run: &Inspection) -> Vec<Line<'static>> {
    let Some(measured) = &run.measured else {
        return vec![Line::styled("nothing evaluated yet", DIM)];
    };
    let heading = format!("held-out problems at step {}", measured.step);
    let mut lines = vec![Line::styled(heading, DIM)];
    let plain = [("solo_accuracy", "solo"), ("jargon_rate", "jargon")];
    let mut add = |name: &str, value: f64| {
        lines.push(Line::raw(format!("{name:<28}{value:>6.3}")));
    };
    for (key, name) in plain {
        if let Some(value) = measured.values.get(key) {
            add(name, *value);
        }
    }
    for (prefix, name) in [("handoff_success_rate/", "handoff"), ("tandem_accuracy/", "tandem")] {
        for (key, value) in &measured.values {
            if let Some(schedule) = key.strip_prefix(prefix) {
                add(&format!("{name}, {schedule}"), *value);
            }
        }
    }
    lines.truncate(NUMBERS.len() + 1);
    lines
}

/// A heading and a row for each process; the last row says how many did not fit.
fn member_lines(run: &Inspection, area: Rect) -> Vec<Line<'static>> {
    let width = run.members.iter().map(|m| m.name.chars().count()).max().unwrap_or(0).max(7);
    let heading = format!(
        "{:width$}  {:>9}  {:>9}  {:>6}  waits for",
        "process", "heard", "got on", "groups"
    );
    let mut lines = vec![Line::styled(heading, DIM)];
    let fits = (area.height as usize).saturating_sub(1);
    let shown = match run.members.len() {
        all if all > fits => fits.saturating_sub(1),
        all => all,
    };
    lines.extend(run.members[..shown].iter().map(|member| member_line(member, width, area.width)));
    if shown < run.members.len() {
        let more = format!("… and {} more", run.members.len() - shown);
        lines.push(Line::styled(more, DIM));
    }
    lines
}

fn member_line(member: &MemberView, width: usize, columns: u16) -> Line<'static> {
    let name = &member.name;
    let Some(silent) = member.silent else {
        return Line::styled(format!("{name:width$}  not heard of yet"), DIM);
    };
    let (silent, idle) = (seconds(silent), seconds(member.idle));
    let waits: Vec<String> = member.waits.iter().map(wait).collect();
    let (leases, waits) = (member.leases, waits.join("; "));
    let row = format!("{name:width$}  {silent:>9}  {idle:>9}  {leases:>6}  {waits}");
    Line::raw(fitted(&row, columns))
}

/// What does not fit into the columns is seen to be cut off.
fn fitted(text: &str, columns: u16) -> String {
    let columns = columns as usize;
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// As a person says it.
fn span(time: Duration) -> String {
    match time.as_secs() {
        all @ 0..=119 => format!("{all} s"),
        all @ 120..=7199 => format!("{} min", all / 60),
        all => format!("{} h {:02} min", all / 3600, all / 60 % 60),
    }
}

#[cfg(test)]
mod tests;
