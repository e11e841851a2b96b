//! Who sends a request, and whether it may: signatures, the clock, digests.
//!
//! Source: http.md sections 2.2 and 2.3.

use crate::answer::{Code, Denied};
use crate::front::put_hex;
use crate::target::{Mode, Target};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use martlet_broker::auth::{Access, AccessError, Action, Caller, Need};
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// A request's `Date` may be so far from the clock.
const CLOCK_WINDOW: Duration = Duration::from_secs(15 * 60);
/// What carries access key and signature.
const AUTHORIZATION: &str = "header Authorization";
/// Headers that are signed begin with this.
const SIGNED_PREFIX: &str = "x-mq-";

impl From<AccessError> for Denied {
    fn from(error: AccessError) -> Self {
        let code = match error {
            AccessError::Anonymous { .. } => Code::MissingAuthorizationHeader,
            AccessError::Unreadable { .. } => Code::InvalidAuthorizationHeader,
            AccessError::UnknownUser { .. } => Code::InvalidAccessKeyId,
            AccessError::Signature { .. } => Code::SignatureDoesNotMatch,
            AccessError::Disabled { .. } | AccessError::NotPermitted { .. } | AccessError::NotSuper { .. } => {
                Code::AccessDenied
            }
        };
        Self::new(code, error.to_string())
    }
}

/// Who has signed the request, at about this time.
pub(crate) fn check<'a>(access: &Access<'a>, request: &'a Parts, now: SystemTime) -> Result<Caller<'a>, Denied> {
    let (key, signature) = authorization(&request.headers)?;
    let date =
        one(&request.headers, "date").ok_or_else(|| Denied::new(Code::MissingDateHeader, "header Date is missing"))?;
    let sent = httpdate::parse_http_date(date).map_err(|_| {
        Denied::new(Code::InvalidDateHeader, format!("header Date {:?} is not a date of HTTP", cut(date)))
    })?;
    let apart = now.duration_since(sent).or_else(|_| sent.duration_since(now)).unwrap_or_default();
    if apart > CLOCK_WINDOW {
        let (seconds, max) = (apart.as_secs(), CLOCK_WINDOW.as_secs());
        let text = format!("header Date is {seconds} s away from this server's clock, the limit is {max} s");
        return Err(Denied::new(Code::TimeExpired, text));
    }
    access.named(key, AUTHORIZATION)?;
    let signature = STANDARD
        .decode(signature)
        .map_err(|_| Denied::new(Code::InvalidAuthorizationHeader, "the signature in Authorization is not base64"))?;
    Ok(access.authenticate(key, AUTHORIZATION, [string_to_sign(request).as_bytes()], &signature)?)
}

/// What a request needs of its user: to send to its topic, or to consume from it with its group.
pub(crate) fn needs<'a>(method: &Method, target: &'a Target) -> Vec<Need<'a>> {
    match (method, target.mode) {
        // A half message is its producer's until the transaction ends.
        (&Method::POST, _) | (_, Mode::Halves | Mode::Commit | Mode::Rollback) => {
            vec![Need::topic(&target.topic, &[Action::Pub])]
        }
        (_, Mode::Any | Mode::Ordered) => {
            let group = target.group.as_deref().map(|group| Need::group(group, &[Action::Sub]));
            group.into_iter().chain([Need::topic(&target.topic, &[Action::Sub])]).collect()
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
    let digest = u128::from_be_bytes(Md5::digest(body).into());
    let mut text = String::with_capacity(32);
    put_hex(&mut text, (digest >> 64) as u64, 16);
    put_hex(&mut text, digest as u64, 16);
    text
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
