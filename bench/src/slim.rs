//! Partial views of the protocol's messages: only the fields a load needs, strings as shared bytes.
//!
//! Same field numbers as `proto/apache/rocketmq/v2`; what is not named here is skipped while decoding. A receipt handle
//! travels from the received frame into the acknowledgement without a copy of its own.

use bytes::Bytes;

use crate::pb;

/// `ReceiveMessageResponse`: a status, a message, or (skipped) a delivery timestamp.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReceiveResponse {
    /// First frame of every answer.
    #[prost(message, optional, tag = "1")]
    pub status: Option<pb::Status>,
    /// One message a frame.
    #[prost(message, optional, tag = "2")]
    pub message: Option<Message>,
}

/// `Message`, as received.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// Id and receipt handle.
    #[prost(message, optional, tag = "3")]
    pub system_properties: Option<SystemProperties>,
    /// Body as sent.
    #[prost(bytes = "bytes", tag = "4")]
    pub body: Bytes,
}

/// `SystemProperties`, as received.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SystemProperties {
    /// Message id.
    #[prost(bytes = "bytes", tag = "3")]
    pub message_id: Bytes,
    /// Receipt handle.
    #[prost(bytes = "bytes", optional, tag = "12")]
    pub receipt_handle: Option<Bytes>,
}

/// `AckMessageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AckRequest {
    /// Consumer group.
    #[prost(message, optional, tag = "1")]
    pub group: Option<pb::Resource>,
    /// Topic.
    #[prost(message, optional, tag = "2")]
    pub topic: Option<pb::Resource>,
    /// At most 32 of them here.
    #[prost(message, repeated, tag = "3")]
    pub entries: Vec<AckEntry>,
}

/// `AckMessageEntry`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AckEntry {
    /// Message id.
    #[prost(bytes = "bytes", tag = "1")]
    pub message_id: Bytes,
    /// Receipt handle.
    #[prost(bytes = "bytes", tag = "2")]
    pub receipt_handle: Bytes,
}

/// `AckMessageResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AckResponse {
    /// Common status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<pb::Status>,
    /// In the order of the request.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<AckResult>,
}

/// `AckMessageResultEntry`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AckResult {
    /// Status of this entry.
    #[prost(message, optional, tag = "3")]
    pub status: Option<pb::Status>,
}

/// `SendMessageResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SendResponse {
    /// Common status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<pb::Status>,
    /// In the order of the request.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<SendResult>,
}

/// `SendResultEntry`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SendResult {
    /// Message id, as sent.
    #[prost(bytes = "bytes", tag = "2")]
    pub message_id: Bytes,
}
