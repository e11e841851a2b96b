//! The `martlet` binary.
fn main() {}
