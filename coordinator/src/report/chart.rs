//! A chart as inline SVG: axes with round ticks, lines and marks, and a tooltip for each point. It
//! knows nothing of runs; colours are the page's, by number.

use std::fmt::Write;

use minijinja::HtmlEscape;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;
/// About so many ticks on an axis.
const TICKS: f64 = 5.0;
/// Of one line; more would only make the page larger.
const TIPS_MAX: usize = 80;
const TIP_RADIUS: f64 = 6.0;

/// What the vertical axis shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Range {
    /// From 0 to 1, whatever is there.
    Share,
    /// From 0 to the largest value.
    FromZero,
    /// From the smallest value to the largest.
    Auto,
}

/// The form of a point that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
}

pub(super) const MARKS: [Mark; 4] = [Mark::Circle, Mark::Square, Mark::Triangle, Mark::Diamond];

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) tip: String,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) colour: usize,
    pub(super) dashed: bool,
    /// In the background, without tooltips.
    pub(super) faint: bool,
    pub(super) mark: Option<Mark>,
    pub(super) points: Vec<Point>,
}

#[derive(Clone, Debug)]
pub(super) struct Chart<'a> {
    /// For those who do not see it.
    pub(super) label: &'a str,
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    pub(super) range: Range,
    pub(super) series: Vec<Series>,
}

/// One axis: where its values lie.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Chart<'_> {
    /// Nothing where there is no point.
    pub(super) fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let (x_low, x_high) = bounds(points().map(|point| point.x))?;
        let (low, high) = bounds(points().map(|point| point.y))?;
        let y = match self.range {
            Range::Share => Axis::new(0.0, 1.0),
            Range::FromZero => Axis::new(low.min(0.0), high),
            Range::Auto => Axis::new(low, high),
        };
        // The horizontal axis ends where the values do.
        let x = Axis { low: x_low, high: x_high.max(x_low + 1e-9), ..Axis::new(x_low, x_high) };
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            HtmlEscape(self.label)
        );
        self.axes(&mut out, &x, &y);
        for series in self.series.iter().filter(|series| series.faint) {
            line(&mut out, series, &x, &y);
        }
        for series in self.series.iter().filter(|series| !series.faint) {
            line(&mut out, series, &x, &y);
        }
        for series in self.series.iter().filter(|series| !series.faint) {
            tips(&mut out, series, &x, &y);
        }
        out.push_str("</svg>");
        Some(out)
    }

    fn axes(&self, out: &mut String, x: &Axis, y: &Axis) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in y.ticks() {
            let at = y_of(y, tick);
            put(out, format_args!("<path class=\"rule\" d=\"M{LEFT} {at:.1}H{right}\"/>"));
            let text = y.number(tick);
            put(
                out,
                format_args!(
                    "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                    LEFT - 6.0,
                    at + 4.0
                ),
            );
        }
        put(out, format_args!("<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>"));
        for tick in x.ticks() {
            let at = x_of(x, tick);
            put(out, format_args!("<path class=\"axis\" d=\"M{at:.1} {bottom}v4\"/>"));
            let text = x.number(tick);
            let y = bottom + 16.0;
            put(
                out,
                format_args!(
                    "<text class=\"tick\" x=\"{at:.1}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>"
                ),
            );
        }
        let middle = f64::midpoint(LEFT, right);
        let (x_label, y_label) = (HtmlEscape(self.x_label), HtmlEscape(self.y_label));
        put(
            out,
            format_args!(
                "<text class=\"name\" x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{x_label}</text>",
                HEIGHT - 8.0
            ),
        );
        let middle = f64::midpoint(TOP, bottom);
        put(
            out,
            format_args!(
                "<text class=\"name\" transform=\"rotate(-90)\" x=\"{:.1}\" y=\"13\" \
                 text-anchor=\"middle\">{y_label}</text>",
                -middle
            ),
        );
    }
}

impl Axis {
    /// Whole ticks at both ends.
    fn new(low: f64, high: f64) -> Self {
        let span = if high > low { high - low } else { low.abs().max(1.0) };
        let high = low + span;
        let rough = span / TICKS;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|of| of * power).into_iter().find(|s| *s >= rough);
        let step = step.unwrap_or(10.0 * power);
        let (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        Self { low, high, step }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (first, step) = ((self.low / self.step - 1e-9).ceil(), self.step);
        let count = ((self.high / step + 1e-9).floor() - first).max(0.0) as usize;
        // A zero has no sign.
        (0..=count).map(move |index| (first + index as f64) * step + 0.0)
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// As many decimals as the ticks' distance needs.
    fn number(&self, value: f64) -> String {
        let size = self.high.abs().max(self.low.abs());
        let (large, small) = (size >= 1e4, self.step < 1e-4);
        if value == 0.0 && (large || small) {
            return "0".to_owned();
        }
        if large {
            let (unit, name) = if size >= 1e6 { (1e6, "M") } else { (1e3, "k") };
            return format!("{}{name}", trimmed(value / unit));
        }
        if small {
            return format!("{value:.0e}");
        }
        let decimals = (-self.step.log10() - 1e-9).ceil().max(0.0) as usize;
        format!("{value:.decimals$}")
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|value| value.is_finite());
    finite.fold(None, |found, value| {
        let (low, high) = found.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

fn x_of(axis: &Axis, value: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * axis.share(value)
}

fn y_of(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * axis.share(value)
}

fn line(out: &mut String, series: &Series, x: &Axis, y: &Axis) {
    let at = |point: &Point| (x_of(x, point.x), y_of(y, point.y));
    let places: Vec<(f64, f64)> = series.points.iter().map(at).collect();
    let colour = series.colour;
    if places.len() > 1 {
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dashed = if series.dashed { " dashed" } else { "" };
        let faint = if series.faint { " faint" } else { "" };
        put(
            out,
            format_args!(
                "<polyline class=\"line c{colour}{dashed}{faint}\" points=\"{}\"/>",
                path.join(" ")
            ),
        );
    }
    // A line of one point is a point.
    let alone = (places.len() == 1 && !series.faint).then_some(Mark::Circle);
    let Some(mark) = series.mark.or(alone) else { return };
    let hollow = if series.dashed { " hollow" } else { "" };
    for (x, y) in places {
        put(
            out,
            format_args!("<path class=\"mark c{colour}{hollow}\" d=\"{}\"/>", shape(mark, x, y)),
        );
    }
}

fn shape(mark: Mark, x: f64, y: f64) -> String {
    match mark {
        Mark::Circle => {
            let left = x - 3.5;
            format!("M{left:.1} {y:.1}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z")
        }
        Mark::Square => format!("M{:.1} {:.1}h6.4v6.4h-6.4z", x - 3.2, y - 3.2),
        Mark::Triangle => format!("M{x:.1} {:.1}l4.4 7.4h-8.8z", y - 4.6),
        Mark::Diamond => format!("M{x:.1} {:.1}l4.6 4.6l-4.6 4.6l-4.6 -4.6z", y - 4.6),
    }
}

fn tips(out: &mut String, series: &Series, x: &Axis, y: &Axis) {
    let every = series.points.len().div_ceil(TIPS_MAX).max(1);
    let last = series.points.len().saturating_sub(1);
    let shown = series.points.iter().enumerate();
    for (_, point) in shown.filter(|(index, _)| index % every == 0 || *index == last) {
        put(
            out,
            format_args!(
                "<circle class=\"tip c{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{TIP_RADIUS}\">\
                 <title>{}</title></circle>",
                series.colour,
                x_of(x, point.x),
                y_of(y, point.y),
                HtmlEscape(&point.tip)
            ),
        );
    }
}

fn put(out: &mut String, text: std::fmt::Arguments) {
    out.write_fmt(text).expect("a string takes what is written");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(axis: &Axis) -> Vec<String> {
        axis.ticks().map(|tick| axis.number(tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_what_there_is() {
        let check = |low, high, expected: &[&str]| {
            assert_eq!(ticks(&Axis::new(low, high)), expected, "{low}..{high}");
        };
        check(0.0, 1.0, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        check(-0.13, 0.41, &["-0.2", "0.0", "0.2", "0.4", "0.6"]);
        check(0.0, 23_400.0, &["0", "5k", "10k", "15k", "20k", "25k"]);
        check(7.0, 7.0, &["6", "8", "10", "12", "14"]);
        check(0.0, 3e-5, &["0", "1e-5", "2e-5", "3e-5"]);
    }

    #[test]
    fn points_are_where_their_values_belong() {
        let point = |x, y| Point { x, y, tip: format!("at <{x}>") };
        let series = Series {
            colour: 2,
            dashed: false,
            faint: false,
            mark: None,
            points: vec![point(0.0, 0.0), point(40.0, 0.5), point(80.0, 1.0)],
        };
        let chart = Chart {
            label: "a < b",
            x_label: "step",
            y_label: "share",
            range: Range::Share,
            series: vec![series],
        };
        let svg = chart.svg().unwrap();
        // 0 and 80 are the ends of the axis, 52 and 446; 0 and 1 those of the other, 220 and 12.
        let line = "<polyline class=\"line c2\" points=\"52.0,220.0 249.0,116.0 446.0,12.0\"/>";
        assert!(svg.contains(line), "{svg}");
        assert!(svg.contains("<title>at &lt;40&gt;</title>"), "{svg}");
        assert!(svg.contains("aria-label=\"a &lt; b\""), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3);
        let empty = Chart { series: Vec::new(), ..chart };
        assert_eq!(empty.svg(), None);
    }

    #[test]
    fn long_lines_have_few_tooltips_and_keep_their_last_point() {
        let points = (0..1000).map(|x| Point { x: f64::from(x), y: 1.0, tip: format!("t{x}.") });
        let series =
            Series { colour: 0, dashed: false, faint: false, mark: None, points: points.collect() };
        let (label, range) = ("", Range::FromZero);
        let chart = Chart { label, x_label: "", y_label: "", range, series: vec![series] };
        let svg = chart.svg().unwrap();
        assert!(
            svg.matches("<circle").count() <= TIPS_MAX + 1,
            "{}",
            svg.matches("<circle").count()
        );
        assert!(svg.contains("<title>t0.</title>") && svg.contains("<title>t999.</title>"));
    }
}
