//! What a connection speaks, told from its first bytes. Pure: bytes in, verdict out.
//!
//! | first bytes | verdict |
//! | --- | --- |
//! | `16 03` | TLS |
//! | `PROXY ` | PROXY protocol, version 1 |
//! | `0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A` | PROXY protocol, version 2 |
//! | `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` | HTTP/2 with prior knowledge |
//! | a method name and a space | HTTP/1 |
//! | length (4 bytes), header format 0 or 1, header length below the length | RocketMQ remoting frame |
//! | anything else | unknown |

/// What the first bytes of a connection look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A TLS handshake record.
    Tls,
    /// A PROXY protocol header in text form.
    ProxyV1,
    /// A PROXY protocol header in binary form.
    ProxyV2,
    /// The HTTP/2 connection preface.
    Http2,
    /// An HTTP/1 request line.
    Http1,
    /// A frame of RocketMQ's remoting protocol.
    Remoting,
    /// None of these.
    Unknown,
}

/// Most bytes that [`classify`] wants before it decides.
pub const SNIFF_BYTES_MAX: usize = HTTP2_PREFACE.len();

/// The client's half of an HTTP/2 connection starts with this.
pub const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first bytes of a PROXY protocol header in binary form.
pub const PROXY_V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

const PROXY_V1_START: &[u8; 6] = b"PROXY ";
const HTTP1_METHODS: [&[u8]; 9] =
    [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"TRACE ", b"CONNECT "];
/// Longest remoting frame and header that are taken for one.
const REMOTING_FRAME_MAX: u32 = 256 * 1024 * 1024;
const REMOTING_HEADER_MAX: u32 = 1024 * 1024;

/// Judges the first bytes; `None` while they fit more than one verdict. Decides by [`SNIFF_BYTES_MAX`] bytes at the latest.
pub fn classify(bytes: &[u8]) -> Option<Opening> {
    let fixed: [(&[u8], Opening); 4] = [
        (&[0x16, 0x03], Opening::Tls),
        (PROXY_V1_START, Opening::ProxyV1),
        (PROXY_V2_SIGNATURE, Opening::ProxyV2),
        (HTTP2_PREFACE, Opening::Http2),
    ];
    let methods = HTTP1_METHODS.iter().map(|method| (*method, Opening::Http1));
    let mut undecided = false;
    for (start, opening) in fixed.into_iter().chain(methods) {
        if bytes.starts_with(start) {
            return Some(opening);
        }
        undecided |= start.starts_with(bytes);
    }
    if undecided {
        return None;
    }
    remoting(bytes)
}

fn remoting(bytes: &[u8]) -> Option<Opening> {
    // The highest byte of the length settles most of it; text and TLS records never look like a short length.
    match bytes.first() {
        None => return None,
        Some(high) if u32::from(*high) << 24 >= REMOTING_FRAME_MAX => return Some(Opening::Unknown),
        Some(_) => {}
    }
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let (length, header) = (word(0)?, word(4)?);
    let (format, header_length) = (header >> 24, header & 0x00ff_ffff);
    let fits = format <= 1 && header_length <= REMOTING_HEADER_MAX && u64::from(header_length) + 4 <= u64::from(length);
    Some(if fits && length <= REMOTING_FRAME_MAX { Opening::Remoting } else { Opening::Unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opening_is_told_apart_and_prefixes_wait_for_more() {
        let remoting = [&[0, 0, 0, 100, 0, 0, 0, 80][..], &[b'{'; 16]].concat();
        let table: [(&[u8], Opening); 9] = [
            (&[0x16, 0x03, 0x01, 0x02, 0x00], Opening::Tls),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Opening::ProxyV1),
            (PROXY_V2_SIGNATURE, Opening::ProxyV2),
            (HTTP2_PREFACE, Opening::Http2),
            (b"POST / HTTP/1.1\r\n", Opening::Http1),
            (b"GET / HTTP/1.1\r\n", Opening::Http1),
            (&remoting, Opening::Remoting),
            (b"SSH-2.0-OpenSSH\r\n", Opening::Unknown),
            (&[0, 0, 0, 8, 9, 0, 0, 1], Opening::Unknown),
        ];
        for (bytes, opening) in table {
            assert_eq!(classify(bytes), Some(opening), "{bytes:?}");
            // A verdict given early is never another one.
            for end in 0..bytes.len() {
                assert!(classify(&bytes[..end]).is_none_or(|early| early == opening), "{:?}", &bytes[..end]);
            }
        }
        assert_eq!(classify(b""), None);
        assert_eq!(classify(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"), Some(Opening::Unknown));
    }
}
