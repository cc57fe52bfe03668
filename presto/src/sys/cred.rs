//! Acting as the caller: owner of what is created, umask, and clearing of setuid bits.
//!
//! The kernel checked permissions already (`default_permissions`), so capabilities are kept throughout; only the ids
//! that ext4 stamps a new object with, and the umask, are the caller's.

use super::check;
use nix::errno::Errno;
use std::{cell::Cell, marker::PhantomData, sync::OnceLock};

/// File system ids to act under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct As {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

thread_local! {
    /// This thread's umask, once it has one of its own.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
    /// Whether this thread has `CAP_FSETID`, as every thread does at first.
    static FSETID: Cell<bool> = const { Cell::new(true) };
}

/// `CAP_FSETID`.
const CAP_FSETID: u32 = 1 << 4;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAP_VERSION: u32 = 0x2008_0522;

/// Call once before any thread is started: from then on a change of the file system user id keeps capabilities.
pub(crate) fn prepare_process() -> Result<(), Errno> {
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: plain integers.
    let bits = check(unsafe { libc::prctl(libc::PR_GET_SECUREBITS) }.into())? as libc::c_ulong;
    // SAFETY: plain integers.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP) }.into())?;
    // Now, while no thread has dropped any.
    capabilities().map(drop)
}

/// The caller's umask, for this thread, until another is set.
pub(crate) struct Umask;

impl Umask {
    /// Sets it. The first call in a thread gives the thread a umask of its own.
    pub(crate) fn set(umask: u32) -> Result<(), Errno> {
        UMASK.with(|current| {
            if current.get() == Some(umask) {
                return Ok(());
            }
            if current.get().is_none() {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            }
            // SAFETY: always succeeds.
            unsafe { libc::umask(umask & 0o777) };
            current.set(Some(umask));
            Ok(())
        })
    }
}

/// Ends acting as the caller when dropped; stays in its thread.
pub(crate) struct Acting(Option<As>, PhantomData<*const ()>);

/// Acts under `ids` until the result is dropped. Free of cost for root.
pub(crate) fn as_caller(ids: As) -> Acting {
    if ids == (As { uid: 0, gid: 0 }) {
        return Acting(None, PhantomData);
    }
    // SAFETY: plain integers; for this thread alone.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, ids.gid);
        libc::syscall(libc::SYS_setfsuid, ids.uid);
    }
    Acting(Some(ids), PhantomData)
}

impl Drop for Acting {
    fn drop(&mut self) {
        if self.0.is_some() {
            // SAFETY: plain integers; for this thread alone.
            unsafe {
                libc::syscall(libc::SYS_setfsuid, 0);
                libc::syscall(libc::SYS_setfsgid, 0);
            }
        }
    }
}

/// The process's capabilities as they were before any thread dropped one.
static CAPABILITIES: OnceLock<[CapData; 2]> = OnceLock::new();

fn capabilities() -> Result<[CapData; 2], Errno> {
    if let Some(known) = CAPABILITIES.get() {
        return Ok(*known);
    }
    let header = CapHeader { version: CAP_VERSION, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 takes two elements.
    check(unsafe { libc::syscall(libc::SYS_capget, &header, data.as_mut_ptr()) })?;
    Ok(*CAPABILITIES.get_or_init(|| data))
}

fn set_capabilities(data: &[CapData; 2]) -> Result<(), Errno> {
    let header = CapHeader { version: CAP_VERSION, pid: 0 };
    // SAFETY: version 3 takes two elements.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) }).map(drop)
}

/// Gives this thread `CAP_FSETID`, or takes it away; free of cost if that is how it is.
///
/// Without it the bottom clears setuid and setgid bits as it does when an ordinary user writes. A thread may stay
/// without it: [`crate::filter::Filter`] gives it back before it does what is recorded.
pub(crate) fn set_fsetid(wanted: bool) -> Result<(), Errno> {
    FSETID.with(|has| {
        if has.get() == wanted {
            return Ok(());
        }
        let mut data = capabilities()?;
        if !wanted {
            data[0].effective &= !CAP_FSETID;
        }
        set_capabilities(&data)?;
        has.set(wanted);
        Ok(())
    })
}

/// Runs `work` without `CAP_FSETID` if `drop_it`, else with it; then the thread is as it was before.
pub(crate) fn without_fsetid<T>(drop_it: bool, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let had = FSETID.with(Cell::get);
    set_fsetid(!drop_it)?;
    let result = work();
    set_fsetid(had)?;
    result
}
