//! Bodies that gRPC v2 clients have compressed with gzip, for those of other protocols that take every compressed body for a zlib stream.
//!
//! Both are the same deflated bytes in another wrapping. Only the checksum differs, and needs the body: it is inflated piece by
//! piece, and nothing of it is kept.

use flate2::{Decompress, FlushDecompress, Status};

const MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];
const HEAD_BYTES: usize = 10;
/// The checksum and the length after the deflated bytes.
const TAIL_BYTES: usize = 8;
const HAS_HEAD_CHECKSUM: u8 = 0x02;
const HAS_MORE: u8 = 0x04;
const HAS_NAME: u8 = 0x08;
const HAS_COMMENT: u8 = 0x10;
/// What zlib streams begin with: deflated, a window of 32 KiB, the usual level.
const ZLIB_HEAD: [u8; 2] = [0x78, 0x9c];
/// Inflated bytes that are looked at; what is longer stays as it is. Clients send at most 4 MiB before they compress.
const INFLATED_BYTES_MAX: u64 = 64 << 20;
const PIECE_BYTES: usize = 16 * 1024;

/// The same body as a zlib stream; `None` if it is not one whole gzip stream, or too long.
pub fn as_zlib(body: &[u8]) -> Option<Vec<u8>> {
    let deflated = deflated(body)?;
    let mut inflate = Decompress::new(false);
    let mut sum = Adler32::default();
    let mut piece = [0; PIECE_BYTES];
    loop {
        let (taken, given) = (inflate.total_in(), inflate.total_out());
        let rest = deflated.get(usize::try_from(taken).ok()?..)?;
        let status = inflate.decompress(rest, &mut piece, FlushDecompress::None).ok()?;
        let new = usize::try_from(inflate.total_out() - given).ok()?;
        sum.add(piece.get(..new)?);
        if inflate.total_out() > INFLATED_BYTES_MAX {
            return None;
        }
        if status == Status::StreamEnd {
            break;
        }
        if inflate.total_in() == taken && new == 0 {
            return None;
        }
    }
    let (deflated, rest) = deflated.split_at_checked(usize::try_from(inflate.total_in()).ok()?)?;
    (rest.len() == TAIL_BYTES).then(|| [&ZLIB_HEAD, deflated, &sum.value().to_be_bytes()].concat())
}

/// What follows the head.
fn deflated(body: &[u8]) -> Option<&[u8]> {
    if !body.starts_with(&MAGIC) {
        return None;
    }
    let flags = *body.get(MAGIC.len())?;
    let mut rest = body.get(HEAD_BYTES..)?;
    if flags & HAS_MORE != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [HAS_NAME, HAS_COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = rest.get(end + 1..)?;
        }
    }
    if flags & HAS_HEAD_CHECKSUM != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}

/// The checksum of zlib streams.
struct Adler32(u32, u32);

impl Default for Adler32 {
    fn default() -> Self {
        Self(1, 0)
    }
}

impl Adler32 {
    fn add(&mut self, bytes: &[u8]) {
        const PRIME: u32 = 65_521;
        // As many bytes as surely fit 32 bits.
        for piece in bytes.chunks(5_552) {
            for byte in piece {
                self.0 += u32::from(*byte);
                self.1 += self.0;
            }
            self.0 %= PRIME;
            self.1 %= PRIME;
        }
    }

    fn value(&self) -> u32 {
        self.1 << 16 | self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::ZlibDecoder;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::{Read, Write};

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn inflated(zlib: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        ZlibDecoder::new(zlib).read_to_end(&mut body).unwrap();
        body
    }

    #[test]
    fn heads_with_names_are_passed_over_and_what_is_no_stream_is_left_alone() {
        let mut named = gzip(b"hello");
        named[3] = HAS_NAME | HAS_MORE;
        named.splice(HEAD_BYTES..HEAD_BYTES, *b"\x02\x00xyname\0");
        assert_eq!(inflated(&as_zlib(&named).unwrap()), b"hello");
        let whole = gzip(&[7; 100_000]);
        for bad in [&whole[..whole.len() - 9], &whole[..12], b"hello", &[whole.clone(), whole.clone()].concat()] {
            assert!(as_zlib(bad).is_none(), "{} bytes", bad.len());
        }
        let bomb = gzip(&vec![0; INFLATED_BYTES_MAX as usize + PIECE_BYTES]);
        assert!(as_zlib(&bomb).is_none());
    }

    proptest! {
        #[test]
        fn every_body_is_the_same_in_the_other_wrapping(body in prop::collection::vec(any::<u8>(), 0..20_000)) {
            prop_assert_eq!(inflated(&as_zlib(&gzip(&body)).unwrap()), body);
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = as_zlib(&[&MAGIC[..], &body].concat());
        }
    }
}
