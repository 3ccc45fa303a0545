//! Many short texts in one buffer: a vocabulary and its merges as single strings take 40 MB more.

/// Read by index or in order; never changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TextTable {
    joined: String,
    /// Of each text, in bytes of `joined`.
    ends: Vec<usize>,
}

impl TextTable {
    #[must_use]
    pub fn get(&self, at: usize) -> Option<&str> {
        let end = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.joined[start..end])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.ends.len()).map(|at| self.get(at).expect("below the length"))
    }
}

impl<T: AsRef<str>> FromIterator<T> for TextTable {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut all = Self::default();
        for text in texts {
            all.joined.push_str(text.as_ref());
            all.ends.push(all.joined.len());
        }
        all.joined.shrink_to_fit();
        all.ends.shrink_to_fit();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_in_order_the_empty_ones_too() {
        let all = ["", "ab", "", "ß", ""];
        let texts: TextTable = all.into_iter().collect();
        assert_eq!(texts.iter().len(), 5);
        assert_eq!(texts.iter().collect::<Vec<_>>(), all);
        let by_index: Vec<_> = (0..6).map(|at| texts.get(at)).collect();
        assert_eq!(by_index, [Some(""), Some("ab"), Some(""), Some("ß"), Some(""), None]);
        assert_ne!(texts, ["", "a", "b", "ß", ""].into_iter().collect());
    }
}
