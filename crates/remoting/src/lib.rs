//! The remoting protocol: what 4.x and 5.x clients speak over TCP to name servers and brokers.
//!
//! - [`codec`]: bytes to values and back, pure.

pub mod codec;
