//! Rows of different lengths as one right-padded micro-batch. What is selected is decided outside.

use candle_core::{Device, Tensor};

use crate::Error;

/// A token id that every vocabulary has. Padding comes after all that is read: attention is
/// causal, so it changes nothing.
const PAD: u32 = 0;

/// One sequence and the ascending positions of those of its tokens that are to be learnt.
pub(crate) struct Row<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) targets: Vec<usize>,
}

impl Row<'_> {
    /// How many leading tokens have to be read to predict the last target.
    pub(crate) fn width(&self) -> usize {
        self.targets.last().copied().unwrap_or(0)
    }
}

/// Model inputs of one micro-batch, all of dtype u32.
pub(crate) struct Padded {
    pub(crate) tokens: Tensor,  // [B,T]
    pub(crate) select: Tensor,  // [N]
    pub(crate) targets: Tensor, // [N]
}

/// Tokens after a row's last target are cut off: nothing that is learnt depends on them. The
/// position t−1 predicts the token t. Every row must have a target.
pub(crate) fn pad(rows: &[Row<'_>], device: &Device) -> Result<Padded, Error> {
    let width = rows.iter().map(Row::width).max().unwrap_or(0);
    let mut tokens = Vec::with_capacity(rows.len() * width);
    let (mut select, mut targets) = (Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        if row.targets.first() == Some(&0) {
            return Err(Error::NoPrompt { row: index });
        }
        tokens.extend_from_slice(&row.tokens[..row.width()]);
        tokens.resize((index + 1) * width, PAD);
        for target in &row.targets {
            select.push((index * width + target - 1) as u32);
            targets.push(row.tokens[*target]);
        }
    }
    let selected = select.len();
    Ok(Padded {
        tokens: Tensor::from_vec(tokens, (rows.len(), width), device)?,
        select: Tensor::from_vec(select, selected, device)?,
        targets: Tensor::from_vec(targets, selected, device)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cropped_padded_and_indexed() {
        let rows = [
            Row { tokens: &[9, 5, 6, 7, 8], targets: vec![1, 3] },
            Row { tokens: &[4, 3], targets: vec![1] },
        ];
        let padded = pad(&rows, &Device::Cpu).unwrap();
        assert_eq!(padded.tokens.to_vec2::<u32>().unwrap(), [[9, 5, 6], [4, 0, 0]]);
        assert_eq!(padded.select.to_vec1::<u32>().unwrap(), [0, 2, 3]);
        assert_eq!(padded.targets.to_vec1::<u32>().unwrap(), [5, 7, 3]);
    }

    #[test]
    fn a_first_token_cannot_be_predicted() {
        let rows = [Row { tokens: &[1, 2], targets: vec![0, 1] }];
        let error = pad(&rows, &Device::Cpu).map(|_| ()).expect_err("must be refused");
        assert!(error.to_string().contains("row 0"));
    }
}
