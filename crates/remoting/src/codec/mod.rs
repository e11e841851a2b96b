//! Bytes to values and back. No I/O, no clock; nothing here knows the broker.
//!
//! - [`frame`]: frames on a connection, with their limits.
//! - [`header`]: headers in both formats, JSON and binary.
//! - [`fields`]: typed access to a request's fields, with errors that name the field.
//! - [`code`]: codes of requests and answers.
//! - [`json`]: JSON as these clients write and read it, objects as keys of objects included.
//! - [`properties`]: the property string of a message.
//! - [`message`]: a message as pull and query answers carry it; bodies of batches.
//! - [`ids`]: offset message ids and unique keys.
//! - [`version`]: numbers and names of clients' versions.

pub mod code;
pub mod fields;
pub mod frame;
pub mod header;
pub mod ids;
pub mod json;
pub mod message;
pub mod properties;
pub mod version;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Something is longer or more than it may be.
    #[error("{what} is {found}, the limit is {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How much.
        found: u64,
        /// How much it may be.
        limit: u64,
    },
    /// The bytes end within something, or a length points past the end.
    #[error("{what} does not fit into the {bytes} bytes there are")]
    Short {
        /// What is cut off.
        what: &'static str,
        /// Bytes there are.
        bytes: usize,
    },
    /// Not a value that this may have.
    #[error("{what} is {found}")]
    Value {
        /// What.
        what: &'static str,
        /// What it says (cut to 128 characters).
        found: String,
    },
    /// Not UTF-8.
    #[error("{what} is not UTF-8")]
    Text {
        /// What.
        what: &'static str,
    },
    /// Not JSON.
    #[error("{what} is not JSON at byte {at}: {reason}")]
    Json {
        /// What.
        what: &'static str,
        /// Byte position.
        at: usize,
        /// What is wrong there.
        reason: &'static str,
    },
}

/// Reads numbers and lengths from the front of bytes.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(rest: &'a [u8], what: &'static str) -> Self {
        Self { rest, what }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::Short { what: self.what, bytes: self.rest.len() };
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let short = DecodeError::Short { what: self.what, bytes: self.rest.len() };
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A length of four bytes that is not negative.
    pub(crate) fn length(&mut self) -> Result<usize, DecodeError> {
        let length = self.i32()?;
        usize::try_from(length).map_err(|_| DecodeError::Value { what: self.what, found: length.to_string() })
    }

    pub(crate) fn text(&mut self, count: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.take(count)?).map_err(|_| DecodeError::Text { what: self.what })
    }
}

pub(crate) fn shown(text: &str) -> String {
    text.chars().take(128).collect()
}
