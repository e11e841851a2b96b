//! Who sends a request: accounts, signatures, the clock, digests.
//!
//! Source: http.md sections 2.2 and 2.3.

use crate::answer::{Code, Denied};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use hyper::http::request::Parts;
use md5::{Digest, Md5};
use sha1::Sha1;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A request's `Date` may be so far from the clock.
const CLOCK_WINDOW: Duration = Duration::from_secs(15 * 60);
/// Bytes of a file of accounts.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of an access key, and of a secret.
const KEY_BYTES_MAX: usize = 256;
/// Headers that are signed begin with this.
const SIGNED_PREFIX: &str = "x-mq-";

/// Access keys and their secrets. Shows no secret when it is printed.
#[derive(Clone, Default)]
pub struct Accounts(Arc<BTreeMap<String, String>>);

/// Why accounts cannot be read. Names lines, never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The file cannot be read.
    #[error("cannot read the accounts in {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// A line is not an account.
    #[error("{}: line {line} {rule}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What it breaks.
        rule: &'static str,
    },
    /// There is no account in it.
    #[error("{}: there is no account in it; each line is an access key, a space and its secret", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accounts({})", self.0.len())
    }
}

impl Accounts {
    /// Reads a file: on each line an access key, a space and its secret; empty lines and those that begin with `#` are left
    /// out.
    pub fn load(path: &Path) -> Result<Self, AccountsError> {
        let unreadable = |error| AccountsError::Unreadable { path: path.to_owned(), error };
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if bytes > FILE_BYTES_MAX {
            let error = std::io::Error::other(format!("it has {bytes} bytes, the limit is {FILE_BYTES_MAX}"));
            return Err(unreadable(error));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text).map_err(|wrong| match wrong {
            Some((line, rule)) => AccountsError::Line { path: path.to_owned(), line, rule },
            None => AccountsError::Empty { path: path.to_owned() },
        })
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Option<(usize, &'static str)>> {
        let mut accounts = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |rule| Some((number + 1, rule));
            let mut words = line.split_whitespace();
            let (Some(key), Some(secret), None) = (words.next(), words.next(), words.next()) else {
                return Err(wrong("is not an access key, a space and its secret"));
            };
            if key.len() > KEY_BYTES_MAX || secret.len() > KEY_BYTES_MAX {
                return Err(wrong("has an access key or secret of more than 256 bytes"));
            }
            if key.contains(':') {
                return Err(wrong("has an access key with a colon, which no client can send"));
            }
            if accounts.insert(key.to_owned(), secret.to_owned()).is_some() {
                return Err(wrong("has an access key that is there before"));
            }
        }
        if accounts.is_empty() {
            return Err(None);
        }
        Ok(Self(Arc::new(accounts)))
    }

    /// Whether one of these accounts has signed the request, at about this time.
    pub(crate) fn check(&self, request: &Parts, now: SystemTime) -> Result<(), Denied> {
        let (key, signature) = authorization(&request.headers)?;
        let date = one(&request.headers, "date")
            .ok_or_else(|| Denied::new(Code::MissingDateHeader, "header Date is missing"))?;
        let sent = httpdate::parse_http_date(date).map_err(|_| {
            Denied::new(Code::InvalidDateHeader, format!("header Date {:?} is not a date of HTTP", cut(date)))
        })?;
        let apart = now.duration_since(sent).or_else(|_| sent.duration_since(now)).unwrap_or_default();
        if apart > CLOCK_WINDOW {
            let (seconds, max) = (apart.as_secs(), CLOCK_WINDOW.as_secs());
            let text = format!("header Date is {seconds} s away from this server's clock, the limit is {max} s");
            return Err(Denied::new(Code::TimeExpired, text));
        }
        let secret = self
            .0
            .get(key)
            .ok_or_else(|| Denied::new(Code::InvalidAccessKeyId, format!("access key {:?} is not known", cut(key))))?;
        let signature = STANDARD.decode(signature).map_err(|_| {
            Denied::new(Code::InvalidAuthorizationHeader, "the signature in Authorization is not base64")
        })?;
        // A key of any length is taken.
        let signed = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).is_ok_and(|mut mac| {
            mac.update(string_to_sign(request).as_bytes());
            mac.verify_slice(&signature).is_ok()
        });
        match signed {
            true => Ok(()),
            false => Err(Denied::new(
                Code::SignatureDoesNotMatch,
                "the signature in Authorization is not that of this request by this access key",
            )),
        }
    }
}

/// Access key and signature.
fn authorization(headers: &HeaderMap) -> Result<(&str, &str), Denied> {
    if !headers.contains_key("authorization") {
        return Err(Denied::new(Code::MissingAuthorizationHeader, "header Authorization is missing"));
    }
    let found = one(headers, "authorization").and_then(|value| value.strip_prefix("MQ ")?.trim().split_once(':'));
    found.filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
        // Its value is not shown: it may be a password of another scheme.
        Denied::new(Code::InvalidAuthorizationHeader, "header Authorization is not \"MQ access key:signature\"")
    })
}

/// The value of a header that is there once and is text.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    std::str::from_utf8(value.as_bytes()).ok()
}

/// What the sender has signed: method, digest, content type, date, headers of the protocol, and the target as it was sent.
fn string_to_sign(request: &Parts) -> String {
    let header = |name: &str| one(&request.headers, name).unwrap_or("");
    let mut text = String::with_capacity(256);
    for line in [request.method.as_str(), header("content-md5"), header("content-type"), header("date")] {
        text.push_str(line);
        text.push('\n');
    }
    let signed: BTreeMap<&str, &str> = request
        .headers
        .keys()
        .map(hyper::header::HeaderName::as_str)
        .filter(|name| name.starts_with(SIGNED_PREFIX))
        .map(|name| (name, header(name)))
        .collect();
    for (name, value) in signed {
        text.push_str(name);
        text.push(':');
        text.push_str(value);
        text.push('\n');
    }
    text.push_str(request.uri.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str));
    text
}

/// Whether the body is the one that the header `Content-MD5` says, if it is there: the digest's bytes in base64, or, as the SDKs
/// do, its hexadecimal digits in base64.
pub(crate) fn check_digest(headers: &HeaderMap, body: &[u8]) -> Result<(), Denied> {
    let Some(value) = headers.get("content-md5") else { return Ok(()) };
    let digest = Md5::digest(body);
    let hex = format!("{:032x}", u128::from_be_bytes(digest.into()));
    let said = STANDARD.decode(value.as_bytes().trim_ascii()).unwrap_or_default();
    match said == digest.as_slice() || said.eq_ignore_ascii_case(hex.as_bytes()) {
        true => Ok(()),
        false => Err(Denied::new(Code::InvalidDigest, "header Content-MD5 is not the digest of the body that came")),
    }
}

/// The digest of a message's body as replies say it: hexadecimal digits, upper case.
pub(crate) fn body_digest(body: &[u8]) -> String {
    format!("{:032X}", u128::from_be_bytes(Md5::digest(body).into()))
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
