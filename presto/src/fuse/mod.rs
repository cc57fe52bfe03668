//! The transport: FUSE messages in, calls of the filter, replies out. What `fuser` needs, and nothing else, is here.

mod adapter;
mod again;
mod backing;
mod decode;
mod kernel;
mod listing;
mod reply;

pub(crate) use adapter::Adapter;
pub(crate) use backing::Backing;
pub(crate) use kernel::Kernel;
