//! Numbers of one floating type as numbers of another, byte for byte as files hold them. Which
//! tensors are converted, and where the bytes come from, is `weights`'.

use half::{bf16, f16};
use safetensors::Dtype;

use crate::cli::ExportDtype;

/// Why a tensor cannot be written in the type asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConvertError {
    #[error("holds a NaN or an infinity")]
    NotFinite,
    #[error("holds a number beyond ±65504, the largest of f16: export with --dtype bf16 or f32")]
    Range,
    #[error("is neither f32, f16 nor bf16")]
    Type,
}

impl ExportDtype {
    #[must_use]
    pub(super) fn safetensors(self) -> Dtype {
        match self {
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
            Self::F32 => Dtype::F32,
        }
    }

    /// As `config.json` and the libraries of the field call it.
    #[must_use]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }
}

/// Bytes of one number; `None` for what is no floating type of models.
#[must_use]
pub(super) fn width(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// Little-endian numbers of type `from` as those of type `to`, rounded to the nearest, ties to
/// even. `bytes` holds whole numbers.
///
/// # Errors
/// A number that is not finite, or not in the range of `to`; a type that holds no weights.
pub(super) fn convert(bytes: &[u8], from: Dtype, to: ExportDtype) -> Result<Vec<u8>, ConvertError> {
    let width = width(from).ok_or(ConvertError::Type)?;
    let mut out = Vec::with_capacity(bytes.len() / width * 4);
    for number in bytes.chunks_exact(width) {
        let value = match (from, number) {
            (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Dtype::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            (_, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            _ => return Err(ConvertError::Type),
        };
        if !value.is_finite() {
            return Err(ConvertError::NotFinite);
        }
        match to {
            ExportDtype::F32 => out.extend(value.to_le_bytes()),
            ExportDtype::F16 => {
                let rounded = f16::from_f32(value);
                if !rounded.is_finite() {
                    return Err(ConvertError::Range);
                }
                out.extend(rounded.to_le_bytes());
            }
            ExportDtype::Bf16 => {
                let rounded = bf16::from_f32(value);
                if !rounded.is_finite() {
                    return Err(ConvertError::NotFinite);
                }
                out.extend(rounded.to_le_bytes());
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn u16s(bits: &[u16]) -> Vec<u8> {
        bits.iter().flat_map(|bits| bits.to_le_bytes()).collect()
    }

    #[test]
    fn rounding_goes_to_the_nearest_and_ties_to_even() {
        // bf16 has 8 bits of mantissa: from 1.0 its neighbours are 2^-7 apart.
        let half = 2.0_f32.powi(-8);
        let values = [1.0, 1.0 + half, 1.0 + 3.0 * half, 1.0 + half * 1.01, -(1.0 + half)];
        let expected = [0x3f80, 0x3f80, 0x3f82, 0x3f81, 0xbf80];
        let found = convert(&f32s(&values), Dtype::F32, ExportDtype::Bf16).unwrap();
        assert_eq!(found, u16s(&expected));
        // f16 has 11: 2^-10 apart from 1.0, and 2^-24 is the smallest above 0.
        let half = 2.0_f32.powi(-11);
        let values = [1.0 + half, 1.0 + 3.0 * half, 2.0_f32.powi(-24), 2.0_f32.powi(-26), 65504.0];
        let expected = [0x3c00, 0x3c02, 0x0001, 0x0000, 0x7bff];
        let found = convert(&f32s(&values), Dtype::F32, ExportDtype::F16).unwrap();
        assert_eq!(found, u16s(&expected));
    }

    #[test]
    fn what_a_type_cannot_hold_is_refused() {
        let one = |value: f32, to| convert(&f32s(&[value]), Dtype::F32, to);
        assert_eq!(one(65520.0, ExportDtype::F16), Err(ConvertError::Range));
        assert_eq!(one(65519.0, ExportDtype::F16).unwrap(), u16s(&[0x7bff]));
        assert_eq!(one(f32::NAN, ExportDtype::F32), Err(ConvertError::NotFinite));
        assert_eq!(one(f32::MAX, ExportDtype::Bf16), Err(ConvertError::NotFinite));
        assert_eq!(convert(&[0; 8], Dtype::I64, ExportDtype::F32), Err(ConvertError::Type));
    }

    #[test]
    fn widening_is_exact() {
        let found = convert(&u16s(&[0x3f81, 0xc040]), Dtype::BF16, ExportDtype::F32).unwrap();
        assert_eq!(found, f32s(&[1.007_812_5, -3.0]));
        let found = convert(&u16s(&[0x3555, 0x7bff]), Dtype::F16, ExportDtype::F32).unwrap();
        assert_eq!(found, f32s(&[0.333_251_95, 65504.0]));
        // bf16 to f16 rounds once: 1 + 2^-7 is exact in f16.
        let found = convert(&u16s(&[0x3f81]), Dtype::BF16, ExportDtype::F16).unwrap();
        assert_eq!(found, u16s(&[0x3c08]));
    }
}
