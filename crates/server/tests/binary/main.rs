//! The real binary: how it starts and stops, and what its commands do.

// Helpers outside of `#[test]` functions fail by panicking, too.
#![allow(clippy::unwrap_used)]

mod bucket;
mod commands;
mod looking;
mod process;
mod s3;
#[path = "../../../store/tests/s3/server.rs"]
mod s3_server;
mod start_and_stop;
mod transactions;
