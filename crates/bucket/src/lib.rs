//! Where everything lies when it does not lie on this machine's disk: a bucket of an object store, or a folder that
//! stands in for one, under one prefix.
//!
//! - [`Location`]: `s3://bucket/prefix`, `gs://…`, `az://…`, `file:///…`, and `memory:` for tests.
//! - [`Bucket`]: such a place, opened: checked for what the store needs of it, with a runtime of its own for its
//!   requests, and a [`Meter`] that counts them.
//! - [`format`](mod@format): what the place says about how it was written.
//!
//! Rules
//! - Nothing is taken for granted: [`Bucket::open`] writes, reads, lists, deletes, and makes sure that an object that
//!   exists is not created a second time. What is refused is told with the operation and the store's own answer.
//! - Credentials come from the environment as the stores' own tools read it; they never stand in a location.

mod check;
mod error;
pub mod format;
mod location;
pub mod meter;
mod open;
mod small;

pub use error::{BucketError, with_causes};
pub use location::{Location, LocationError, Scheme};
pub use meter::{Class, Counts, Meter};
pub use open::Bucket;

#[cfg(test)]
mod tests;
