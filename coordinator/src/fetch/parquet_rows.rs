//! Two text columns of a parquet file. What the rows mean is the caller's.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, bail};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

/// The values of two columns, row by row.
///
/// # Errors
/// A file that is no parquet file, is packed in an unknown way, or lacks a column of texts.
pub(super) fn text_pairs(
    path: &Path,
    (first, second): (&str, &str),
) -> anyhow::Result<Vec<(String, String)>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let shown = || format!("{} cannot be read as a parquet file", path.display());
    let reader = SerializedFileReader::new(file).with_context(shown)?;
    let mut pairs = Vec::new();
    for row in reader.get_row_iter(None).with_context(shown)? {
        let row = row.with_context(shown)?;
        match (text(&row, first), text(&row, second)) {
            (Some(first), Some(second)) => pairs.push((first, second)),
            _ => bail!(
                "{}, row {}: no texts `{first}` and `{second}`: this is another data set",
                path.display(),
                pairs.len() + 1
            ),
        }
    }
    Ok(pairs)
}

fn text(row: &Row, column: &str) -> Option<String> {
    row.get_column_iter().find_map(|(name, field)| match field {
        Field::Str(text) if name == column => Some(text.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by pyarrow 26 as the hub's files are: snappy, dictionaries, optional texts.
    const ROWS: &[u8] = include_bytes!("fixtures/rows.parquet");

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn texts_come_row_by_row_in_the_order_asked_for() {
        let file = file(ROWS);
        let found = text_pairs(file.path(), ("answer", "question")).unwrap();
        let expected = [
            ("<<2*3=6>> six\n#### 6", "How many ducks?"),
            ("One.\n#### 1", "A \"quoted\" ü question?"),
            ("again\n#### 1,000", "How many ducks?"),
        ];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn another_data_set_and_a_torn_file_are_named() {
        let whole = file(ROWS);
        let text = format!("{:#}", text_pairs(whole.path(), ("question", "gold")).unwrap_err());
        assert!(text.contains("row 1: no texts `question` and `gold`"), "{text}");
        let torn = file(&ROWS[..ROWS.len() / 2]);
        let text = format!("{:#}", text_pairs(torn.path(), ("question", "answer")).unwrap_err());
        assert!(text.contains("cannot be read as a parquet file"), "{text}");
    }
}
