//! The header of a safetensors file, before anyone parses it: how long it may be and how much may
//! be in it, so that a hostile one costs neither time nor memory. What it says is read elsewhere.

use std::io::{self, Read};

/// A longer header is no header; those of large models have some hundred kilobytes.
pub const HEADER_BYTES_MAX: u64 = 8 << 20;

/// Of a header. A tensor has five, so that there is room for three thousand in one file.
const COMMAS_MAX: usize = 1 << 14;
/// A header has a comma in every so many bytes, once it is longer than the texts beside its tensors:
/// names of tensors have up to hundreds of letters.
const BYTES_PER_COMMA_MAX: usize = 128;
const TEXTS_BYTES_MAX: usize = 64 << 10;

/// The length that precedes the header.
const LENGTH_BYTES: u64 = 8;

/// Why a header is not parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    #[error("it ends before its header does")]
    Cut,
    #[error("its header has {0} bytes, more than {HEADER_BYTES_MAX}")]
    Long(u64),
    #[error("its header lists more than a model has")]
    Crowded,
    #[error("its header has texts that are longer than names")]
    Wordy,
}

/// Checks the header of a file that is in memory.
///
/// # Errors
/// One that is cut or too large.
pub fn check_header(file: &[u8]) -> Result<(), HeaderFault> {
    let length = header_bytes(file, file.len() as u64)?;
    let start = LENGTH_BYTES as usize;
    let header = usize::try_from(length).ok().and_then(|length| file.get(start..start + length));
    check_contents(header.ok_or(HeaderFault::Cut)?)
}

/// Reads a whole file of `bytes`, unless its header is refused: then little of it is read. Refusals
/// are of the kind `InvalidData`.
///
/// # Errors
/// A refused header, or what cannot be read.
pub fn read_safetensors(mut reader: impl Read, bytes: u64) -> io::Result<Vec<u8>> {
    let refused = |fault| io::Error::new(io::ErrorKind::InvalidData, fault);
    let mut file = Vec::new();
    reader.by_ref().take(LENGTH_BYTES).read_to_end(&mut file)?;
    let header = header_bytes(&file, bytes).map_err(refused)?;
    reader.by_ref().take(header).read_to_end(&mut file)?;
    check_header(&file).map_err(refused)?;
    let rest = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(file.len());
    file.try_reserve_exact(rest)?;
    reader.read_to_end(&mut file)?;
    Ok(file)
}

/// The header's length, by the first bytes of a file that has `bytes` of them.
///
/// # Errors
/// A length that is over the bound or over the file's.
pub fn header_bytes(first: &[u8], bytes: u64) -> Result<u64, HeaderFault> {
    let length = first.first_chunk().ok_or(HeaderFault::Cut)?;
    let length = u64::from_le_bytes(*length);
    if length > HEADER_BYTES_MAX {
        return Err(HeaderFault::Long(length));
    }
    if length + LENGTH_BYTES > bytes { Err(HeaderFault::Cut) } else { Ok(length) }
}

fn check_contents(header: &[u8]) -> Result<(), HeaderFault> {
    let commas = memchr::memchr_iter(b',', header).take(COMMAS_MAX + 1).count();
    if commas > COMMAS_MAX {
        return Err(HeaderFault::Crowded);
    }
    let fits = header.len() <= TEXTS_BYTES_MAX + commas * BYTES_PER_COMMA_MAX;
    if fits { Ok(()) } else { Err(HeaderFault::Wordy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn headers_have_bounds_in_every_direction() {
        let good = file(r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);
        assert_eq!(check_header(&good), Ok(()));
        assert_eq!(read_safetensors(&good[..], good.len() as u64).unwrap(), good);
        assert_eq!(check_header(&good[..7]), Err(HeaderFault::Cut));
        assert_eq!(check_header(&good[..20]), Err(HeaderFault::Cut));
        assert_eq!(check_header(&[0xff; 64]), Err(HeaderFault::Long(u64::MAX)));
        let most = HEADER_BYTES_MAX;
        assert_eq!(header_bytes(&most.to_le_bytes(), most + 8), Ok(most));
        assert_eq!(header_bytes(&most.to_le_bytes(), most + 7), Err(HeaderFault::Cut));
        let over = (most + 1).to_le_bytes();
        assert_eq!(header_bytes(&over, u64::MAX), Err(HeaderFault::Long(most + 1)));
        assert_eq!(check_header(&file(&",".repeat(COMMAS_MAX), 0)), Ok(()));
        assert_eq!(check_header(&file(&",".repeat(COMMAS_MAX + 1), 0)), Err(HeaderFault::Crowded));
        assert_eq!(check_header(&file(&"x".repeat(TEXTS_BYTES_MAX), 0)), Ok(()));
        let wordy = file(&"x".repeat(TEXTS_BYTES_MAX + 1), 0);
        assert_eq!(check_header(&wordy), Err(HeaderFault::Wordy));
    }

    /// Fails when it is read beyond what it has.
    struct Only<'a>(&'a [u8]);

    impl Read for Only<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(!self.0.is_empty(), "read on");
            self.0.read(buffer)
        }
    }

    #[test]
    fn nothing_is_read_behind_a_refused_header() {
        for first in [u64::MAX, 200 << 20, HEADER_BYTES_MAX + 1] {
            let error = read_safetensors(Only(&first.to_le_bytes()), u64::MAX).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(&format!("{first} bytes")), "{error}");
        }
    }
}
