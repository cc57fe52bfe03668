//! File handles: how an inode is named without a path, and opened again (design D2).

use super::check;
use nix::{errno::Errno, fcntl::OFlag};
use protocol::Handle;
use std::{
    ffi::CStr,
    fs::File,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// `FILEID_INO32_GEN`: inode number and generation, what ext2, ext3 and ext4 give.
const FILEID_INO32_GEN: i32 = 1;

/// `struct file_handle` with room for the handles of ext4.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    ino: u32,
    generation: u32,
}

/// The directory that is filtered.
#[derive(Debug)]
pub(crate) struct Bottom {
    /// Its root, opened before the mount covered it.
    pub(crate) root: OwnedFd,
    /// The root's handle.
    pub(crate) root_handle: Handle,
}

impl Bottom {
    /// Takes over an open directory.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if its file handles are not those of ext2, ext3 or ext4.
    pub(crate) fn new(root: OwnedFd) -> Result<Self, Errno> {
        let root_handle = handle_of(&root, c"")?;
        let bottom = Self { root, root_handle };
        bottom.open(root_handle, OFlag::O_PATH)?;
        Ok(bottom)
    }

    /// Opens an inode. `O_CLOEXEC` and `O_NOFOLLOW` are added.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub(crate) fn open(&self, handle: Handle, flags: OFlag) -> Result<OwnedFd, Errno> {
        let raw = RawHandle {
            handle_bytes: 8,
            handle_type: FILEID_INO32_GEN,
            ino: handle.ino(),
            generation: handle.generation(),
        };
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
        // SAFETY: `raw` has the layout of `struct file_handle` with `handle_bytes` bytes of handle after its header.
        let fd = check(unsafe {
            libc::syscall(libc::SYS_open_by_handle_at, self.root.as_raw_fd(), &raw as *const RawHandle, flags.bits())
        })?;
        // SAFETY: the kernel just gave us this descriptor, nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    /// Opens a regular file.
    pub(crate) fn open_file(&self, handle: Handle, flags: OFlag) -> Result<File, Errno> {
        Ok(File::from(self.open(handle, flags | OFlag::O_NONBLOCK)?))
    }

    /// The handle of an entry of `dir`, or of `dir` itself if `name` is empty. Symbolic links are not followed.
    pub(crate) fn handle_of(&self, dir: impl AsFd, name: &CStr) -> Result<Handle, Errno> {
        handle_of(dir, name)
    }
}

fn handle_of(dir: impl AsFd, name: &CStr) -> Result<Handle, Errno> {
    let mut raw = RawHandle { handle_bytes: 8, handle_type: 0, ino: 0, generation: 0 };
    let mut mount_id: libc::c_int = 0;
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: `raw` has room for `handle_bytes` bytes of handle; name and mount id are valid for the call.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            &mut raw as *mut RawHandle,
            &mut mount_id as *mut libc::c_int,
            flags,
        )
    });
    match result {
        Ok(_) if raw.handle_bytes == 8 && raw.handle_type == FILEID_INO32_GEN => {
            Ok(Handle::new(raw.ino, raw.generation))
        }
        Ok(_) | Err(Errno::EOVERFLOW) => Err(Errno::EOPNOTSUPP),
        Err(e) => Err(e),
    }
}
