//! Many short texts in one buffer: a vocabulary and its merges as single strings take 30 MB more.

/// Read by index or in order; never changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    joined: String,
    /// Of each text, in bytes of `joined`.
    ends: Vec<usize>,
}

impl Texts {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let start = |at: usize| at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.ends.iter().enumerate().map(move |(at, end)| &self.joined[start(at)..*end])
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
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
        let texts: Texts = all.into_iter().collect();
        assert_eq!(texts.len(), 5);
        assert_eq!(texts.iter().collect::<Vec<_>>(), all);
        assert_ne!(texts, ["", "a", "b", "ß", ""].into_iter().collect());
    }
}
