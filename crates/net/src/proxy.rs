//! The header that HAProxy and load balancers put in front of a connection: who is really at the other end.
//!
//! Version 1 is one line, at most 107 bytes: `PROXY TCP4|TCP6 source destination source-port destination-port\r\n`, or
//! `PROXY UNKNOWN …\r\n`. Version 2 is binary:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0–11 | signature |
//! | 12 | version (high half, 2) and command (0 local, 1 proxied) |
//! | 13 | family (high half: 1 IPv4, 2 IPv6, 3 Unix) and transport |
//! | 14–15 | length of the rest, big endian |
//! | 16– | source, destination, ports, then extensions that are skipped |
//!
//! Source: the PROXY protocol specification, versions 1 and 2.

use crate::sniff::PROXY_V2_SIGNATURE;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest version 1 header, the line end included.
pub const V1_BYTES_MAX: usize = 107;
/// Longest version 2 header that is read. The format allows 65,551 bytes; real ones with extensions stay far below this.
pub const V2_BYTES_MAX: usize = 4096;

/// A header that has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length; what follows belongs to the connection.
    pub bytes: usize,
    /// The real peer; `None` if the balancer speaks for itself (health checks) or does not know.
    pub source: Option<SocketAddr>,
}

/// Why a header was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// No line end within the limit.
    #[error("PROXY header of version 1 is longer than {V1_BYTES_MAX} bytes")]
    LineTooLong,
    /// The line is not in the documented form.
    #[error("PROXY header of version 1 is malformed: {field} is missing or not legal")]
    Line {
        /// The first field that is wrong.
        field: &'static str,
    },
    /// The version or command is not known.
    #[error("PROXY header of version 2 has version and command {found:#04x}")]
    VersionOrCommand {
        /// Byte 12.
        found: u8,
    },
    /// The addresses do not fit into the given length.
    #[error("PROXY header of version 2 announces {length} bytes, its address family needs {needed}")]
    TooShort {
        /// Announced length.
        length: usize,
        /// Needed length.
        needed: usize,
    },
    /// Longer than this broker reads.
    #[error("PROXY header of version 2 announces {length} bytes, the limit is {V2_BYTES_MAX}")]
    TooLong {
        /// Announced length.
        length: usize,
    },
}

/// Reads a header in text form; `None` while it is incomplete.
pub fn parse_v1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let head = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX { Ok(None) } else { Err(ProxyError::LineTooLong) };
    };
    let line = std::str::from_utf8(&head[..end]).map_err(|_| ProxyError::Line { field: "text" })?;
    let mut words = line.split(' ');
    if words.next() != Some("PROXY") {
        return Err(ProxyError::Line { field: "PROXY" });
    }
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Some(ProxyHeader { bytes: end + 2, source: None }));
    }
    let mut word = |field| words.next().ok_or(ProxyError::Line { field });
    let (source, destination) = (word("source address")?, word("destination address")?);
    let (source_port, destination_port) = (word("source port")?, word("destination port")?);
    let address = |text: &str, field| -> Result<IpAddr, ProxyError> {
        let wrong = ProxyError::Line { field };
        match family {
            Some("TCP4") => text.parse::<Ipv4Addr>().map(IpAddr::from).map_err(|_| wrong),
            Some("TCP6") => text.parse::<Ipv6Addr>().map(IpAddr::from).map_err(|_| wrong),
            _ => Err(ProxyError::Line { field: "address family" }),
        }
    };
    let port = |text: &str, field| text.parse::<u16>().map_err(|_| ProxyError::Line { field });
    let source = SocketAddr::new(address(source, "source address")?, port(source_port, "source port")?);
    address(destination, "destination address")?;
    port(destination_port, "destination port")?;
    if words.next().is_some() {
        return Err(ProxyError::Line { field: "line end" });
    }
    Ok(Some(ProxyHeader { bytes: end + 2, source: Some(source) }))
}

/// Reads a header in binary form; `None` while it is incomplete.
pub fn parse_v2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some((head, rest)) = bytes.split_at_checked(16) else { return Ok(None) };
    debug_assert!(head.starts_with(PROXY_V2_SIGNATURE));
    let (version_command, family) = (head[12], head[13] >> 4);
    if !matches!(version_command, 0x20 | 0x21) {
        return Err(ProxyError::VersionOrCommand { found: version_command });
    }
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length + 16 > V2_BYTES_MAX {
        return Err(ProxyError::TooLong { length });
    }
    let needed = match (version_command, family) {
        (0x21, 1) => 12,
        (0x21, 2) => 36,
        _ => 0,
    };
    if length < needed {
        return Err(ProxyError::TooShort { length, needed });
    }
    let Some(content) = rest.get(..length) else { return Ok(None) };
    let port = |at: usize| u16::from_be_bytes([content[at], content[at + 1]]);
    let source = match needed {
        12 => content[..4].try_into().ok().map(|ip: [u8; 4]| SocketAddr::new(Ipv4Addr::from(ip).into(), port(8))),
        36 => content[..16].try_into().ok().map(|ip: [u8; 16]| SocketAddr::new(Ipv6Addr::from(ip).into(), port(32))),
        _ => None,
    };
    Ok(Some(ProxyHeader { bytes: 16 + length, source }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_names_the_peer() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 8081\r\nPRI";
        let header = parse_v1(line).unwrap().unwrap();
        assert_eq!((header.bytes, header.source), (line.len() - 3, Some("192.0.2.7:50000".parse().unwrap())));
        let header = parse_v1(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n").unwrap().unwrap();
        assert_eq!(header.source, Some("[2001:db8::1]:1".parse().unwrap()));
        assert_eq!(parse_v1(b"PROXY UNKNOWN whatever\r\n").unwrap().unwrap().source, None);
        assert_eq!(parse_v1(&line[..20]), Ok(None));
        assert_eq!(parse_v1(&[b'P'; V1_BYTES_MAX]), Err(ProxyError::LineTooLong));
        for (bad, field) in [
            (&b"PROXY TCP4 1.2.3.4\r\n"[..], "destination address"),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 1\r\n", "source port"),
            (b"PROXY TCP6 1.2.3.4 5.6.7.8 1 1\r\n", "source address"),
            (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 1\r\n", "address family"),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 1 x\r\n", "line end"),
        ] {
            assert_eq!(parse_v1(bad), Err(ProxyError::Line { field }));
        }
    }

    #[test]
    fn the_binary_form_names_the_peer() {
        let header = |command: u8, family: u8, content: &[u8]| {
            let mut bytes = PROXY_V2_SIGNATURE.to_vec();
            bytes.extend([command, family]);
            bytes.extend((content.len() as u16).to_be_bytes());
            bytes.extend(content);
            bytes
        };
        let four = header(0x21, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x1f, 0x91, 9, 9, 9]);
        let read = parse_v2(&four).unwrap().unwrap();
        assert_eq!((read.bytes, read.source), (four.len(), Some("192.0.2.7:50000".parse().unwrap())));
        for end in 0..four.len() {
            assert_eq!(parse_v2(&four[..end]), Ok(None));
        }
        let mut six = [0; 36];
        (six[15], six[33]) = (1, 7);
        assert_eq!(parse_v2(&header(0x21, 0x21, &six)).unwrap().unwrap().source, Some("[::1]:7".parse().unwrap()));
        assert_eq!(parse_v2(&header(0x20, 0x00, &[])).unwrap().unwrap().source, None);
        assert_eq!(parse_v2(&header(0x31, 0x11, &[])), Err(ProxyError::VersionOrCommand { found: 0x31 }));
        assert_eq!(parse_v2(&header(0x21, 0x11, &[0; 11])), Err(ProxyError::TooShort { length: 11, needed: 12 }));
        assert_eq!(parse_v2(&header(0x21, 0x11, &[0; 4090])), Err(ProxyError::TooLong { length: 4090 }));
    }
}
