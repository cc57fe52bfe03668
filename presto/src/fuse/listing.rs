//! Listings of directories, into FUSE's replies.

use super::reply;
use crate::filter::{Entry, Filter, Listed, Result};
use fuser::{FileType, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

/// `READDIR`. Nothing is in `reply` yet if this fails because names are absent.
pub(super) fn plain(filter: &Filter, node: u64, offset: u64, reply: &mut ReplyDirectory) -> Result<()> {
    filter.list(node, offset, |listed: Listed<'_>, _| {
        let found = if listed.is_dot() { node } else { filter.node_of(node, listed.name).unwrap_or(listed.ino) };
        let name = OsStr::from_bytes(listed.name.to_bytes());
        reply.add(INodeNo(found), listed.next, listed_type(listed.kind), name)
    })
}

/// `READDIRPLUS`. Nothing is in `reply` yet if this fails because names are absent.
pub(super) fn plus(filter: &Filter, node: u64, offset: u64, reply: &mut ReplyDirectoryPlus) -> Result<()> {
    let mut own = None;
    filter.list(node, offset, |listed: Listed<'_>, entry| {
        let found = if listed.is_dot() {
            match own.map_or_else(|| filter.getattr(node), Ok) {
                Ok(stat) => {
                    own = Some(stat);
                    Entry { node, stat }
                }
                Err(_) => return false,
            }
        } else {
            // Removed since it was listed: then it is not there.
            let Ok(entry) = entry() else { return false };
            entry
        };
        let ttl = reply::attr_ttl(&found.stat);
        let attributes = reply::attributes(found.node, &found.stat);
        let name = OsStr::from_bytes(listed.name.to_bytes());
        let full = reply.add(INodeNo(found.node), listed.next, name, &ttl, &attributes, fuser::Generation(0));
        if !full && !listed.is_dot() {
            filter.note_known(found.node, &found.stat);
        }
        full
    })
}

/// FUSE's type from a directory entry's.
fn listed_type(kind: u8) -> FileType {
    match kind {
        libc::DT_DIR => FileType::Directory,
        libc::DT_LNK => FileType::Symlink,
        libc::DT_FIFO => FileType::NamedPipe,
        libc::DT_SOCK => FileType::Socket,
        libc::DT_CHR => FileType::CharDevice,
        libc::DT_BLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}
