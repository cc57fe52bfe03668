//! Lento.
fn main() {}
