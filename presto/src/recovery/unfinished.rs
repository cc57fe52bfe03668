//! Records that were written and whose operations may or may not have been done.

use super::tree::Tree;
use crate::filter::Result;
use protocol::{Done, Name, ObjectId, Op};

/// The errno of a record that turns out not to have happened.
const NEVER_HAPPENED: i32 = libc::ECANCELED;

const DONE: Done = Done { handle: None, attr: None };

/// How the operation of a record without outcome ended.
///
/// Attributes and content need no look: whoever applies the record takes them as they are now.
pub(super) fn verdict(tree: &mut Tree<'_>, op: &Op) -> Result<std::result::Result<Done, i32>> {
    let happened = match op {
        Op::Create { parent, name, id, .. }
        | Op::Mkdir { parent, name, id, .. }
        | Op::Symlink { parent, name, id, .. }
        | Op::Mknod { parent, name, id, .. } => return created(tree, *parent, name, *id),
        Op::Link { id, parent, name } => names(tree, *parent, name)? == Some(*id),
        Op::Unlink { parent, name, id } | Op::Rmdir { parent, name, id } => match tree.directory(*parent)? {
            // Its absence there would say nothing.
            Some(dir) if tree.lacks_names(&dir)? => false,
            _ => names(tree, *parent, name)? != Some(*id),
        },
        Op::Rename { id, parent, name, to_parent, to_name, exchange, .. } => {
            let there = names(tree, *to_parent, to_name)? == Some(*id);
            let still_here = names(tree, *parent, name)? == Some(*id);
            there && (*exchange || !still_here)
        }
        Op::Setattr { .. }
        | Op::Setxattr { .. }
        | Op::Removexattr { .. }
        | Op::Intend { .. }
        | Op::Store { .. }
        | Op::Noop => true,
    };
    Ok(if happened { Ok(DONE) } else { Err(NEVER_HAPPENED) })
}

/// The id of what an entry names.
fn names(tree: &mut Tree<'_>, parent: ObjectId, name: &Name) -> Result<Option<ObjectId>> {
    let Some(dir) = tree.directory(parent)? else { return Ok(None) };
    Ok(tree.entry(&dir, name.as_bytes())?.and_then(|found| found.id))
}

fn created(tree: &mut Tree<'_>, parent: ObjectId, name: &Name, id: ObjectId) -> Result<std::result::Result<Done, i32>> {
    let Some(dir) = tree.directory(parent)? else { return Ok(Err(NEVER_HAPPENED)) };
    let Some(found) = tree.entry(&dir, name.as_bytes())? else { return Ok(Err(NEVER_HAPPENED)) };
    match found.id {
        Some(is) if is == id => {}
        // It was made, and the crash came before it got its id.
        None => tree.give_id(&dir, name.as_bytes(), id)?,
        Some(_) => return Ok(Err(NEVER_HAPPENED)),
    }
    if found.stat.is_dir() {
        tree.note_directory(id, found.handle);
    }
    Ok(Ok(Done { handle: Some(found.handle), attr: Some(found.stat.attr()) }))
}
