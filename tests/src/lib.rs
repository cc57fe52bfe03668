//! Whole-system tests on the built programs: hosts in network namespaces, stores on ext4 images, faults, benchmarks.
//!
//! Needs root, loop devices and network namespaces; what is missing is an error, never a test left out.

pub mod acked;
pub mod busy;
pub mod cluster;
pub mod dice;
pub mod exact;
pub mod host;
pub mod image;
pub mod network;
pub mod permits;
pub mod presto;
pub mod process;
pub mod replay;
pub mod shell;
pub mod sources;
pub mod tools;
pub mod tree;
pub mod workspace;
