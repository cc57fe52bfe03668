//! Presto.
fn main() {}
