//! The gRPC front: `apache.rocketmq.v2` for clients, `martlet.v1.Admin` for the command line.

pub mod proto;
