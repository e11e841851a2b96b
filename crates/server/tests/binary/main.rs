//! The real binary: how it starts and stops, and what its commands do.

// Helpers outside of `#[test]` functions fail by panicking, too.
#![allow(clippy::unwrap_used)]

mod bucket;
mod commands;
mod copy;
mod looking;
mod process;
mod s3;
mod start_and_stop;
mod transactions;
