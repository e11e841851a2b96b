//! Bodies that clients of other protocols have compressed: gzip over gRPC, zlib over TCP. HTTP clients read plain ones only.

use flate2::bufread::{GzDecoder, ZlibDecoder};
use martlet_model::limits;
use std::io::Read;

/// The plain body. `None`: compressed in another way, broken, or more than a body may be.
pub(crate) fn inflated(body: &[u8]) -> Option<Vec<u8>> {
    match body {
        [0x1f, 0x8b, ..] => read(GzDecoder::new(body)),
        // Deflated, in a header whose check fits.
        [head, check, ..] if head & 0x0f == 8 && (u16::from(*head) << 8 | u16::from(*check)) % 31 == 0 => {
            read(ZlibDecoder::new(body))
        }
        _ => None,
    }
}

fn read(decoder: impl Read) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let bytes = decoder.take(limits::BODY_BYTES_MAX as u64 + 1).read_to_end(&mut plain).ok()?;
    (bytes <= limits::BODY_BYTES_MAX).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write;

    fn zlib(body: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_and_zlib_are_read_and_bombs_and_other_bytes_are_not() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(b"hello").unwrap();
        assert_eq!(inflated(&gzip.finish().unwrap()).as_deref(), Some(&b"hello"[..]));
        let whole = zlib(b"hello");
        assert_eq!(inflated(&whole).as_deref(), Some(&b"hello"[..]));
        let largest = vec![b' '; limits::BODY_BYTES_MAX];
        assert_eq!(inflated(&zlib(&largest)).map(|body| body.len()), Some(limits::BODY_BYTES_MAX));
        let bomb = zlib(&vec![b' '; limits::BODY_BYTES_MAX + 1]);
        for bad in [&whole[..whole.len() - 5], &bomb, b"", b"plain", b"\x28\xb5\x2f\xfd"] {
            assert_eq!(inflated(bad), None, "{} bytes", bad.len());
        }
    }
}
