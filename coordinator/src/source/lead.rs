//! Beginnings of gold solutions in either style, which a probe has the models go on from.

use settings::SolutionStyle;

/// How a solution's lead is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    FirstLine,
    /// The first half of the lines before the answer, rounded up.
    Half,
}

/// Which lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    pub style: SolutionStyle,
    pub extent: Extent,
}

impl Lead {
    /// Of a solution that carries annotations. Something is always left to be done: of two lines or
    /// more the last one before the answer, of a single one nothing is given.
    #[must_use]
    pub fn of(self, solution: &str) -> Option<String> {
        let lines: Vec<&str> = solution.lines().filter(|line| !line.starts_with("####")).collect();
        let wanted = match self.extent {
            Extent::FirstLine => 1,
            Extent::Half => lines.len().div_ceil(2),
        };
        let given = &lines[..wanted.min(lines.len().saturating_sub(1))];
        let text: String = given.iter().map(|line| format!("{line}\n")).collect();
        let text = match self.style {
            SolutionStyle::Annotated => text,
            SolutionStyle::Plain => without_annotations(&text),
        };
        (!text.is_empty()).then_some(text)
    }
}

/// Without `<<…>>`.
pub(super) fn without_annotations(solution: &str) -> String {
    let mut parts = solution.split("<<");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once(">>").map_or(part, |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lead_is_cut_before_the_last_step() {
        let solution = "1+1=<<1+1=2>>2\n2+1=<<2+1=3>>3\n3*2=<<3*2=6>>6\n#### 6";
        let lead = |style, extent| Lead { style, extent }.of(solution);
        for (style, extent, expected) in [
            (SolutionStyle::Annotated, Extent::FirstLine, "1+1=<<1+1=2>>2\n"),
            (SolutionStyle::Plain, Extent::FirstLine, "1+1=2\n"),
            (SolutionStyle::Annotated, Extent::Half, "1+1=<<1+1=2>>2\n2+1=<<2+1=3>>3\n"),
            (SolutionStyle::Plain, Extent::Half, "1+1=2\n2+1=3\n"),
        ] {
            assert_eq!(lead(style, extent).as_deref(), Some(expected));
        }
        let plain = Lead { style: SolutionStyle::Plain, extent: Extent::FirstLine };
        assert_eq!(plain.of("only 2\n#### 2"), None, "one line is all there is to do");
        assert_eq!(plain.of("a\nb\n#### 2").as_deref(), Some("a\n"));
        assert_eq!(plain.of("#### 2"), None);
    }
}
