//! Frames: 4 bytes length of what follows, 1 byte header format, 3 bytes header length, header, body.

use super::DecodeError;
use super::header::{Format, Header};
use bytes::Bytes;

/// Longest frame, without its length: what clients and the reference take.
pub const FRAME_BYTES_MAX: usize = 16_777_216;
/// Longest header. The longest legal property string takes 192 KiB in JSON.
pub const HEADER_BYTES_MAX: usize = 512 * 1024;
/// Bytes that say how long a frame is.
pub(crate) const LENGTH_BYTES: usize = 4;
const FORMAT_AND_HEADER_LENGTH_BYTES: usize = 4;

/// A request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is about.
    pub header: Header,
    /// The rest.
    pub body: Bytes,
}

/// Length of the frame that starts here, all of it; `None` while it is not known.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
    let Some((length, _)) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX {
        let limit = FRAME_BYTES_MAX as u64;
        return Err(DecodeError::TooLarge { what: "length of the frame", found: length as u64, limit });
    }
    if length < FORMAT_AND_HEADER_LENGTH_BYTES {
        return Err(DecodeError::Value { what: "length of the frame", found: length.to_string() });
    }
    Ok(Some(LENGTH_BYTES + length))
}

/// Reads a whole frame, its length included.
pub fn decode(frame: &Bytes) -> Result<Frame, DecodeError> {
    let mut header = Header::default();
    let body = read(frame, &mut header)?;
    Ok(Frame { header, body: frame.slice_ref(body) })
}

/// The same, with the header in place of this one; gives the body.
pub fn read<'f>(frame: &'f [u8], header: &mut Header) -> Result<&'f [u8], DecodeError> {
    let short = |what| DecodeError::Short { what, bytes: frame.len() };
    let start = LENGTH_BYTES + FORMAT_AND_HEADER_LENGTH_BYTES;
    let word = frame.get(LENGTH_BYTES..start).and_then(|word| word.try_into().ok());
    let word = u32::from_be_bytes(word.ok_or(short("header length"))?);
    let format = match word >> 24 {
        0 => Format::Json,
        1 => Format::Binary,
        other => return Err(DecodeError::Value { what: "header format", found: other.to_string() }),
    };
    let length = (word & 0x00ff_ffff) as usize;
    if length > HEADER_BYTES_MAX {
        let limit = HEADER_BYTES_MAX as u64;
        return Err(DecodeError::TooLarge { what: "length of the header", found: length as u64, limit });
    }
    let rest = frame.get(start..).and_then(|rest| rest.split_at_checked(length));
    let (bytes, body) = rest.ok_or(short("header"))?;
    header.read(bytes, format)?;
    Ok(body)
}

/// The bytes of a frame up to its body, which has so many bytes.
pub fn head(header: &Header, body_bytes: usize) -> Bytes {
    let mut bytes = Vec::new();
    put_head(&mut bytes, header, body_bytes);
    bytes.into()
}

/// Appends those.
pub fn put_head(out: &mut Vec<u8>, header: &Header, body_bytes: usize) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES + FORMAT_AND_HEADER_LENGTH_BYTES]);
    header.write(out);
    let header_bytes = out.len() - start - LENGTH_BYTES - FORMAT_AND_HEADER_LENGTH_BYTES;
    let length = FORMAT_AND_HEADER_LENGTH_BYTES + header_bytes + body_bytes;
    let words =
        [u32::try_from(length).unwrap_or(u32::MAX), (header.format as u32) << 24 | (header_bytes as u32 & 0x00ff_ffff)];
    for (word, place) in words.into_iter().zip(out.get_mut(start..).unwrap_or_default().chunks_exact_mut(4)) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_are_measured_before_they_are_read() {
        assert_eq!(length(&[0, 0, 1]), Ok(None));
        assert_eq!(length(&[0, 0, 0, 8, 9]), Ok(Some(12)));
        assert_eq!(length(&[1, 0, 0, 0]), Ok(Some(FRAME_BYTES_MAX + 4)));
        let text = length(&[1, 0, 0, 1]).unwrap_err().to_string();
        assert_eq!(text, "length of the frame is 16777217, the limit is 16777216");
        assert!(length(&[0, 0, 0, 3]).is_err());
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        for format in [Format::Json, Format::Binary] {
            let fields = [("topic", "orders")].into_iter().collect();
            let header = Header { code: 105, opaque: 7, fields, format, ..Header::default() };
            let frame = Bytes::from([&head(&header, 4)[..], b"body"].concat());
            assert_eq!(length(&frame), Ok(Some(frame.len())));
            assert_eq!(decode(&frame), Ok(Frame { header, body: Bytes::from_static(b"body") }));
        }
        for bad in [&[0, 0, 0, 8, 9, 0, 0, 0][..], &[0, 0, 0, 8, 0, 0, 0, 9, 1], &[0, 0]] {
            assert!(decode(&Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = length(&bytes);
            let _ = decode(&Bytes::from(bytes));
        }
    }
}
