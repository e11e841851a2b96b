//! Addresses that requests come from.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address, or a network in CIDR notation. Written as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Source {
    text: String,
    address: IpAddr,
    /// Bits that count.
    bits: u32,
}

/// Whether it is one of four bytes, and its bits from the left.
fn bits_of(address: IpAddr) -> (bool, u128) {
    match address.to_canonical() {
        IpAddr::V4(address) => (true, u128::from(address.to_bits()) << 96),
        IpAddr::V6(address) => (false, address.to_bits()),
    }
}

impl Source {
    /// Whether an address is this one, or in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let ((own_kind, own), (kind, other)) = (bits_of(self.address), bits_of(address));
        // No bits: every address of the kind.
        own_kind == kind && (own ^ other).checked_shr(128 - self.bits).unwrap_or(0) == 0
    }
}

impl FromStr for Source {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid::new("source IP", text, "is not an IP address or a network in CIDR notation");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let max: u32 = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => max,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= max).ok_or_else(wrong)?,
        };
        // A network of IPv4 addresses within IPv6 is one of IPv4.
        let bits = match (address, address.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(_)) => bits.checked_sub(96).ok_or_else(wrong)?,
            _ => bits,
        };
        Ok(Self { text: text.to_owned(), address, bits })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Source {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        for (source, address, inside) in [
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("10.1.2.3", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "10.200.1.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.1.2.128/25", "10.1.2.127", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "1.2.3.4", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::1", "::1", true),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
        ] {
            let source: Source = source.parse().unwrap();
            assert_eq!(source.contains(address.parse().unwrap()), inside, "{source} {address}");
        }
        for text in ["", "host", "10.1.2", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "::ffff:1.2.3.4/8"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }
}
