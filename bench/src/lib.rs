//! Load generator and side-by-side comparison for brokers that speak RocketMQ's gRPC v2; loads of TCP clients, and
//! sends over gRPC v1 and HTTP, too.
//!
//! In: an endpoint and a load. Out: throughput, latency percentiles, CPU, memory and bytes written of the server, and the
//! generator's own CPU. Binaries: `bench` (the loads and `bench compare`) and `floor` (the least a gRPC server can cost).
//!
//! Rules
//! - The generator shares the machine with the server, so it is built to cost little: bare HTTP/2 on current-thread
//!   runtimes, request frames copied from a template, no task per message in closed loops.
//! - Closed loops measure capacity; latency is taken from open loops, from the moment a send was *meant* to start.
//! - Counters of time and work are read at the same instants, after a warm-up that is not counted.

pub mod client;
pub mod compare;
mod deal;
pub mod error;
pub mod floor;
pub mod floor_http;
pub mod floor_tcp;
pub mod load;
pub mod pace;
pub mod procfs;
pub mod report;
pub mod slim;
pub mod sql;
pub mod tcp;
pub mod template;
pub mod wire;

/// The protocol's messages and the server side of its services, generated from `proto/`.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("apache.rocketmq.v2");
}

/// The same of the older package, as far as sends need it.
pub mod v1 {
    use bytes::Bytes;

    /// `SendMessageRequest`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SendRequest {
        /// One message.
        #[prost(message, optional, tag = "1")]
        pub message: Option<Message>,
    }

    /// `Message`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Message {
        /// Topic; the same in both packages.
        #[prost(message, optional, tag = "1")]
        pub topic: Option<crate::pb::Resource>,
        /// User properties.
        #[prost(btree_map = "string, string", tag = "2")]
        pub user_attribute: std::collections::BTreeMap<String, String>,
        /// The rest.
        #[prost(message, optional, tag = "3")]
        pub system_attribute: Option<SystemAttribute>,
        /// Body.
        #[prost(bytes = "bytes", tag = "4")]
        pub body: Bytes,
    }

    /// `SystemAttribute`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SystemAttribute {
        /// Tag.
        #[prost(string, tag = "1")]
        pub tag: String,
        /// Keys in one text.
        #[prost(string, repeated, tag = "2")]
        pub keys: Vec<String>,
        /// Message id.
        #[prost(string, tag = "3")]
        pub message_id: String,
        /// When it was made.
        #[prost(message, optional, tag = "7")]
        pub born_timestamp: Option<prost_types::Timestamp>,
        /// Where.
        #[prost(string, tag = "8")]
        pub born_host: String,
    }

    /// `SendMessageResponse`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SendResponse {
        /// How it went.
        #[prost(message, optional, tag = "1")]
        pub common: Option<ResponseCommon>,
        /// Message id, as sent.
        #[prost(bytes = "bytes", tag = "2")]
        pub message_id: Bytes,
    }

    /// `ResponseCommon`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ResponseCommon {
        /// A code of gRPC, and a text.
        #[prost(message, optional, tag = "1")]
        pub status: Option<crate::pb::Status>,
    }
}
