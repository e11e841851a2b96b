//! Ids of messages, as texts.
//!
//! Offset message id: upper-case hexadecimal digits of the store host's address (4 or 16 bytes), its port (4 bytes) and the
//! physical offset (8 bytes); 32 or 56 digits. Clients dial the address in it.

use martlet_model::PhysicalOffset;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The id of the message at a place of the store at an address.
pub fn offset_id(host: SocketAddr, at: PhysicalOffset) -> String {
    let mut text = String::with_capacity(56);
    put_offset_id(&mut text, host, at);
    text
}

/// Appends that id: a batch has one for each of its messages.
pub fn put_offset_id(text: &mut String, host: SocketAddr, at: PhysicalOffset) {
    match host.ip().to_canonical() {
        IpAddr::V4(ip) => put_hex(text, &ip.octets()),
        IpAddr::V6(ip) => put_hex(text, &ip.octets()),
    }
    put_hex(text, &u32::from(host.port()).to_be_bytes());
    put_hex(text, &at.0.to_be_bytes());
}

/// Appends upper-case hexadecimal digits, two for a byte.
fn put_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Address and place in an offset message id; `None` if it is not one.
pub fn read_offset_id(text: &str) -> Option<(SocketAddr, PhysicalOffset)> {
    let digits = |range: std::ops::Range<usize>| u128::from_str_radix(text.get(range)?, 16).ok();
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (ip, rest) = match text.len() {
        32 => (IpAddr::V4(Ipv4Addr::from(u32::try_from(digits(0..8)?).ok()?)), 8),
        56 => (IpAddr::V6(Ipv6Addr::from(digits(0..32)?)), 32),
        _ => return None,
    };
    let port = u16::try_from(digits(rest..rest + 8)?).ok()?;
    let at = i64::try_from(digits(rest + 8..rest + 24)?).ok()?;
    Some((SocketAddr::new(ip, port), PhysicalOffset(at)))
}

/// Java's `String.hashCode`, which subscriptions and queues know tags by: over UTF-16 units, 0 for no tag.
pub fn tag_hash(tag: &str) -> i32 {
    tag.encode_utf16().fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_and_hashes_are_what_java_makes() {
        let id = offset_id("10.0.0.5:10911".parse().unwrap(), PhysicalOffset(255));
        assert_eq!(id, "0A00000500002A9F00000000000000FF");
        assert_eq!(tag_hash("TagA"), 2_598_919);
        assert_eq!(tag_hash(""), 0);
        assert_eq!(tag_hash("polygenelubricants"), i32::MIN);
        for bad in ["", "0A", "0A00000500002A9F00000000000000FG", "0A0000050FF02A9F00000000000000FF"] {
            assert_eq!(read_offset_id(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(host in any::<SocketAddr>(), at in 0..=i64::MAX) {
            let canonical = SocketAddr::new(host.ip().to_canonical(), host.port());
            prop_assert_eq!(read_offset_id(&offset_id(host, PhysicalOffset(at))), Some((canonical, PhysicalOffset(at))));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = read_offset_id(&text);
        }
    }
}
