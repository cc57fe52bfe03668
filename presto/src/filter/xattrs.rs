//! Extended attributes, less those that belong to InterMezzo.

use super::{Caller, DONE, Error, Filter, Result, identity, ondemand::STATE};
use crate::{
    permit::Pass,
    sys::{XattrTarget, c_string, chmod, get_xattr, list_xattrs, remove_xattr, set_xattr, stat_fd},
};
use nix::errno::Errno;
use protocol::{Done, Op, limits};

const TRUSTED: &[u8] = b"trusted.";
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";

impl Filter {
    /// `GETXATTR`: the value, in `buffer`, or its length if that is empty.
    pub(crate) fn getxattr(&self, node: u64, name: &[u8], buffer: &mut [u8]) -> Result<usize> {
        if identity::is_reserved(name) {
            return Err(Errno::ENODATA.into());
        }
        if name == STATE {
            let state = self.state_of(self.handle(node))?.as_bytes();
            if !buffer.is_empty() {
                buffer.get_mut(..state.len()).ok_or(Errno::ERANGE)?.copy_from_slice(state);
            }
            return Ok(state.len());
        }
        let name = c_string(name)?;
        let handle = self.handle(node);
        if let Some(file) = self.files.get(handle).and_then(|file| file.file()) {
            return Ok(get_xattr(XattrTarget::fd(&*file), &name, buffer)?);
        }
        Ok(get_xattr(XattrTarget::path_fd(&self.path_fd(handle)?), &name, buffer)?)
    }

    /// `LISTXATTR`: all names, each ended by a NUL.
    pub(crate) fn listxattr(&self, caller: Caller, node: u64) -> Result<Vec<u8>> {
        let fd = self.path_fd(self.handle(node))?;
        let mut list = vec![0; limits::XATTR_VALUE_BYTES];
        let length = list_xattrs(XattrTarget::path_fd(&fd), &mut list)?;
        list.truncate(length);
        let mut shown = Vec::with_capacity(length);
        for name in list.split_inclusive(|b| *b == 0) {
            // As the bottom does it: `trusted.` is for those who may read it.
            let is_ours = identity::is_reserved(name) || name.strip_suffix(b"\0") == Some(STATE);
            if !is_ours && (caller.uid == 0 || !name.starts_with(TRUSTED)) {
                shown.extend_from_slice(name);
            }
        }
        Ok(shown)
    }

    /// `SETXATTR`.
    pub(crate) fn setxattr(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        node: u64,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        if identity::is_reserved(name) || name == STATE {
            return Err(Error::Reserved);
        }
        if value.len() > limits::XATTR_VALUE_BYTES || name.len() > limits::XATTR_NAME_BYTES {
            return Err(Errno::E2BIG.into());
        }
        let path = c_string(name)?;
        let handle = self.handle(node);
        let fd = self.path_fd(handle)?;
        let id = self.id_of_path(&fd, handle)?;
        let open = self.files.get(handle);
        let was = stat_fd(&fd)?;
        let name = name.to_vec();
        let loses_setgid = name == ACL_ACCESS && was.mode() & libc::S_ISGID != 0 && !may_keep_setgid(caller, &was);
        let op = |_| Op::Setxattr { id, name, value: value.to_vec() };
        self.record(pass, caller, op, |_| {
            set_xattr(XattrTarget::path_fd(&fd), &path, value, flags)?;
            if loses_setgid {
                chmod(&fd, stat_fd(&fd)?.mode() & 0o7777 & !libc::S_ISGID)?;
            }
            Ok(((), Done { handle: None, attr: Some(stat_fd(&fd)?.attr()) }))
        })?;
        if let Some(file) = open {
            file.attributes_changed(&was, &stat_fd(&fd)?);
        }
        Ok(())
    }

    /// `REMOVEXATTR`.
    pub(crate) fn removexattr(&self, pass: &Pass<'_>, caller: Caller, node: u64, name: &[u8]) -> Result<()> {
        if identity::is_reserved(name) {
            return Err(Errno::ENODATA.into());
        }
        if name == STATE {
            return Err(Error::Reserved);
        }
        let path = c_string(name)?;
        let handle = self.handle(node);
        let fd = self.path_fd(handle)?;
        let id = self.id_of_path(&fd, handle)?;
        let open = self.files.get(handle);
        let was = stat_fd(&fd)?;
        let name = name.to_vec();
        self.record(
            pass,
            caller,
            |_| Op::Removexattr { id, name },
            |_| {
                remove_xattr(XattrTarget::path_fd(&fd), &path)?;
                Ok(((), DONE))
            },
        )?;
        if let Some(file) = open {
            file.attributes_changed(&was, &stat_fd(&fd)?);
        }
        Ok(())
    }
}

/// Whether a caller may set an ACL on a setgid object without the bit being cleared: only a member of its group.
fn may_keep_setgid(caller: Caller, stat: &crate::sys::Stat) -> bool {
    if caller.uid == 0 || caller.gid == stat.0.st_gid {
        return true;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid)).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().any(|group| group.parse() == Ok(stat.0.st_gid))
}
