//! Messages as pull, query and check carry them, and the bodies of batches. Numbers are big-endian.
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | length of all |
//! | 4 | magic: [`MAGIC`], or [`MAGIC_LONG_TOPIC`] for topics of more than 127 bytes |
//! | 4 | CRC-32 of the body, without its highest bit |
//! | 4 | queue |
//! | 4 | flag |
//! | 8 | queue offset |
//! | 8 | physical offset |
//! | 4 | system flags, see [`sys`] |
//! | 8 | born, ms |
//! | 8 or 20 | born host: address (4 or 16), port (4) |
//! | 8 | stored, ms |
//! | 8 or 20 | store host |
//! | 4 | deliveries before this one |
//! | 8 | offset of the half message |
//! | 4 + n | body |
//! | 1 or 2 + n | topic |
//! | 2 + n | properties |
//!
//! A message of a batch: 4 length, 4 magic, 4 CRC (both 0), 4 flag, 4 + n body, 2 + n properties.

use super::{Cursor, DecodeError};
use bytes::{BufMut, Bytes, BytesMut};
use std::net::{IpAddr, SocketAddr};

/// Marks a message whose topic has a length of one byte.
pub const MAGIC: i32 = -626_843_481;
/// Marks a message whose topic has a length of two bytes.
pub const MAGIC_LONG_TOPIC: i32 = -626_843_477;

/// Bits of a message's system flags.
pub mod sys {
    /// The body is compressed.
    pub const COMPRESSED: i32 = 0x1;
    /// A half message.
    pub const PREPARED: i32 = 0x4;
    /// A message whose transaction was committed. With [`PREPARED`]: rolled back.
    pub const COMMITTED: i32 = 0x8;
    /// The born host is an IPv6 address.
    pub const BORN_HOST_V6: i32 = 0x10;
    /// The store host is an IPv6 address.
    pub const STORE_HOST_V6: i32 = 0x20;
    /// What the body is compressed with: 0 and 3 zlib, 1 LZ4, 2 zstd.
    pub const COMPRESSION: i32 = 0x700;
    /// Place of [`COMPRESSION`].
    pub const COMPRESSION_SHIFT: u32 = 8;
}

/// Everything about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Number of its queue.
    pub queue: i32,
    /// The user's flag.
    pub flag: i32,
    /// Its place in the queue.
    pub queue_offset: i64,
    /// The number clients echo.
    pub physical_offset: i64,
    /// [`sys`], without the bits of addresses, which follow from the hosts.
    pub sys_flag: i32,
    /// When it was made, ms.
    pub born: i64,
    /// Where.
    pub born_host: SocketAddr,
    /// When it was stored, ms.
    pub stored: i64,
    /// Where.
    pub store_host: SocketAddr,
    /// Deliveries before this one.
    pub reconsumed: i32,
    /// Queue offset of its half message.
    pub half_offset: i64,
    /// The body as it was sent.
    pub body: &'a [u8],
    /// Its topic.
    pub topic: &'a str,
    /// See [`super::properties`].
    pub properties: &'a str,
}

impl Message<'_> {
    /// Bytes that it takes at most.
    pub fn encoded_max(&self) -> usize {
        128 + self.body.len() + self.topic.len() + self.properties.len()
    }

    /// Appends it. A property string that is too long loses what does not fit.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        let (born, store) = (self.born_host.ip().to_canonical(), self.store_host.ip().to_canonical());
        let is_long = self.topic.len() > 127;
        let mut flags = self.sys_flag & !(sys::BORN_HOST_V6 | sys::STORE_HOST_V6);
        flags |= if born.is_ipv6() { sys::BORN_HOST_V6 } else { 0 };
        flags |= if store.is_ipv6() { sys::STORE_HOST_V6 } else { 0 };
        out.reserve(self.encoded_max());
        out.put_i32(0);
        out.put_i32(if is_long { MAGIC_LONG_TOPIC } else { MAGIC });
        out.put_u32(body_crc(self.body));
        out.put_i32(self.queue);
        out.put_i32(self.flag);
        out.put_i64(self.queue_offset);
        out.put_i64(self.physical_offset);
        out.put_i32(flags);
        out.put_i64(self.born);
        put_host(out, born, self.born_host.port());
        out.put_i64(self.stored);
        put_host(out, store, self.store_host.port());
        out.put_i32(self.reconsumed);
        out.put_i64(self.half_offset);
        out.put_u32(self.body.len() as u32);
        out.put_slice(self.body);
        match is_long {
            true => out.put_u16(self.topic.len() as u16),
            false => out.put_u8(self.topic.len() as u8),
        }
        out.put_slice(self.topic.as_bytes());
        let properties = fitting(self.properties);
        out.put_u16(properties.len() as u16);
        out.put_slice(properties.as_bytes());
        let length = (out.len() - start) as u32;
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// As many whole properties as a message can have.
fn fitting(properties: &str) -> &str {
    let max = super::properties::PROPERTY_STRING_BYTES_MAX;
    match properties.as_bytes().get(..max + 1) {
        None => properties,
        Some(head) => {
            let end = head.iter().take(max).rposition(|byte| *byte == 2).map_or(0, |at| at + 1);
            properties.get(..end).unwrap_or("")
        }
    }
}

fn put_host(out: &mut BytesMut, ip: IpAddr, port: u16) {
    match ip {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u32(u32::from(port));
}

/// The checksum of a body that messages carry.
pub fn body_crc(body: &[u8]) -> u32 {
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, body) as u32) & 0x7fff_ffff
}

/// A message as it was read back; for tools and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Number of its queue.
    pub queue: i32,
    /// The user's flag.
    pub flag: i32,
    /// Its place in the queue.
    pub queue_offset: i64,
    /// The number clients echo.
    pub physical_offset: i64,
    /// See [`sys`].
    pub sys_flag: i32,
    /// When it was made, ms.
    pub born: i64,
    /// Where.
    pub born_host: SocketAddr,
    /// When it was stored, ms.
    pub stored: i64,
    /// Where.
    pub store_host: SocketAddr,
    /// Deliveries before this one.
    pub reconsumed: i32,
    /// Queue offset of its half message.
    pub half_offset: i64,
    /// The body as it was sent.
    pub body: Bytes,
    /// Its topic.
    pub topic: String,
    /// See [`super::properties`].
    pub properties: String,
}

/// Reads messages that follow each other.
pub fn decode_all(bytes: &[u8]) -> Result<Vec<Decoded>, DecodeError> {
    let mut from = Cursor::new(bytes, "message");
    let mut messages = Vec::new();
    while !from.is_empty() {
        let length = from.length()?;
        let rest = length.checked_sub(4).ok_or(DecodeError::Short { what: "message", bytes: length })?;
        messages.push(decode(Cursor::new(from.take(rest)?, "message"))?);
    }
    Ok(messages)
}

fn decode(mut from: Cursor<'_>) -> Result<Decoded, DecodeError> {
    let magic = from.i32()?;
    if magic != MAGIC && magic != MAGIC_LONG_TOPIC {
        return Err(DecodeError::Value { what: "magic of a message", found: magic.to_string() });
    }
    let crc = from.i32()?;
    let (queue, flag, queue_offset, physical_offset) = (from.i32()?, from.i32()?, from.i64()?, from.i64()?);
    let sys_flag = from.i32()?;
    let (born, born_host) = (from.i64()?, host(&mut from, sys_flag & sys::BORN_HOST_V6 != 0)?);
    let (stored, store_host) = (from.i64()?, host(&mut from, sys_flag & sys::STORE_HOST_V6 != 0)?);
    let (reconsumed, half_offset) = (from.i32()?, from.i64()?);
    let length = from.length()?;
    let body = Bytes::copy_from_slice(from.take(length)?);
    if body_crc(&body) as i32 != crc {
        return Err(DecodeError::Value { what: "checksum of a body", found: crc.to_string() });
    }
    let length = if magic == MAGIC { usize::from(from.u8()?) } else { usize::from(from.i16()? as u16) };
    let topic = from.text(length)?.to_owned();
    let length = from.i16()?;
    let length = usize::try_from(length)
        .map_err(|_| DecodeError::Value { what: "length of properties", found: length.to_string() })?;
    let properties = from.text(length)?.to_owned();
    Ok(Decoded {
        queue,
        flag,
        queue_offset,
        physical_offset,
        sys_flag,
        born,
        born_host,
        stored,
        store_host,
        reconsumed,
        half_offset,
        body,
        topic,
        properties,
    })
}

fn host(from: &mut Cursor<'_>, is_v6: bool) -> Result<SocketAddr, DecodeError> {
    let ip = match is_v6 {
        true => IpAddr::from(from.array::<16>()?),
        false => IpAddr::from(from.array::<4>()?),
    };
    let port = from.i32()?;
    let wrong = |_| DecodeError::Value { what: "port of a host", found: port.to_string() };
    Ok(SocketAddr::new(ip, u16::try_from(port).map_err(wrong)?))
}

/// A message of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchMessage<'a> {
    /// The user's flag.
    pub flag: i32,
    /// The body.
    pub body: &'a [u8],
    /// Its properties.
    pub properties: &'a str,
}

/// Takes a batch apart, which may have so many messages.
pub fn decode_batch(bytes: &[u8], messages_max: usize) -> Result<Vec<BatchMessage<'_>>, DecodeError> {
    let what = "message of the batch";
    let mut from = Cursor::new(bytes, what);
    let mut messages = Vec::new();
    while !from.is_empty() {
        if messages.len() == messages_max {
            let (found, limit) = (messages_max as u64 + 1, messages_max as u64);
            return Err(DecodeError::TooLarge { what: "number of messages of the batch", found, limit });
        }
        let length = from.length()?;
        let rest = length.checked_sub(4).ok_or(DecodeError::Short { what, bytes: length })?;
        let mut one = Cursor::new(from.take(rest)?, what);
        one.take(8)?;
        let flag = one.i32()?;
        let length = one.length()?;
        let body = one.take(length)?;
        let length = one.i16()?;
        let length = usize::try_from(length)
            .map_err(|_| DecodeError::Value { what: "length of properties", found: length.to_string() })?;
        let properties = one.text(length)?;
        if one.left() > 0 {
            return Err(DecodeError::Value { what: "length of a message of the batch", found: (rest + 4).to_string() });
        }
        messages.push(BatchMessage { flag, body, properties });
    }
    Ok(messages)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
