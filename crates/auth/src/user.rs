//! Users and secrets.

use crate::Invalid;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use std::fmt;

/// Longest name of a user (its access key), in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Longest secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 256;

/// What a user signs with. Shows nothing when it is printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// One of these characters.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its characters, for those who may see them.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The signature of the parts, one after the other: their HMAC-SHA1, 20 bytes.
    pub fn sign<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        self.mac(parts).map(|mac| mac.finalize().into_bytes().to_vec()).unwrap_or_default()
    }

    /// Whether `signature` is the HMAC-SHA1 of the parts, one after the other. The comparison takes the same time whatever differs.
    pub fn has_signed<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>, signature: &[u8]) -> bool {
        self.mac(parts).is_some_and(|mac| mac.verify_slice(signature).is_ok())
    }

    fn mac<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Option<Hmac<Sha1>> {
        // A key of any length is taken.
        let mut mac = Hmac::<Sha1>::new_from_slice(self.0.as_bytes()).ok()?;
        parts.into_iter().for_each(|part| mac.update(part));
        Some(mac)
    }
}

/// What a user is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserKind {
    /// May do what its policies allow.
    #[default]
    Normal,
    /// May do everything.
    Super,
}

/// A user that was made at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// What it signs with.
    pub secret: Secret,
    /// What it is.
    pub kind: UserKind,
    /// Whether its signatures are taken.
    pub enabled: bool,
}

/// Checks the name of a user: what every protocol can carry.
pub fn check_name(field: &'static str, name: &str) -> Result<(), Invalid> {
    let wrong = |rule| Err(Invalid::new(field, name, rule));
    match name {
        _ if name.is_empty() || name.len() > NAME_BYTES_MAX => wrong("has not from 1 to 256 bytes"),
        _ if !name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            wrong("has other characters than letters, digits and signs of ASCII")
        }
        _ if name.contains([':', '/', ',']) => wrong("has a colon, slash or comma, which not every protocol can carry"),
        _ => Ok(()),
    }
}

/// Checks a secret.
pub fn check_secret(field: &'static str, secret: &str) -> Result<(), Invalid> {
    match secret.trim().is_empty() || secret.len() > SECRET_BYTES_MAX {
        true => Err(Invalid::new(field, &format!("of {} bytes", secret.len()), "is blank or longer than 256 bytes")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_all_parts_and_of_no_other_secret() {
        let hex = "de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9";
        let signature: Vec<u8> = (0..20).map(|at| u8::from_str_radix(&hex[2 * at..][..2], 16).unwrap()).collect();
        let parts = || [&b"The quick brown fox "[..], b"jumps over the lazy dog"];
        assert!(Secret::new("key").has_signed(parts(), &signature));
        assert_eq!(Secret::new("key").sign(parts()), signature);
        assert!(!Secret::new("Key").has_signed(parts(), &signature));
        assert!(!Secret::new("key").has_signed(parts(), &signature[..19]));
        assert!(!Secret::new("key").has_signed(parts(), b""));
        assert!(!Secret::new("key").has_signed([&b"other"[..]], &signature));
    }

    #[test]
    fn no_secret_is_printed() {
        let user = User { secret: Secret::new("hidden"), kind: UserKind::Super, enabled: true };
        assert!(!format!("{user:?}").contains("hidden"));
        let long = "hidden".repeat(50);
        assert!(!check_secret("password", &long).unwrap_err().to_string().contains("hidden"));
        assert!(check_secret("password", " ").is_err());
        assert!(check_secret("password", &long[..256]).is_ok());
    }

    #[test]
    fn names_are_what_every_protocol_can_carry() {
        let long = "n".repeat(257);
        for name in ["", "a b", "a:b", "a/b", "a,b", "ä", "a\n", &long] {
            assert!(check_name("username", name).is_err(), "{name:?}");
        }
        for name in ["a", "LTAI4.x=_-@", &long[1..]] {
            assert_eq!(check_name("username", name), Ok(()));
        }
    }
}
