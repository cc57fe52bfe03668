//! Presto: a FUSE filter over a native directory (design D1 to D6).
//!
//! It passes each operation to the bottom, and appends a record of each change to the modification log before it is
//! done. It knows nothing of other hosts: Lento, at the other end of a Unix socket, gives and takes the permit to
//! change things, reads the log, and tells what to have the kernel forget. Lento may die and come back; the mount goes on.

mod absent;
mod attach;
mod error;
mod filter;
mod fuse;
mod invalidate;
mod journal;
mod marker;
mod mount;
mod permit;
mod recovery;
mod syncer;
mod sys;
mod upcall;

pub use error::MountError;
pub use mount::{Options, run};
