//! Private files: made with mode 0600 in a directory of mode 0700, replaced atomically, changed under a lock.

use crate::IdentityError;
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Makes `dir` if it is not there, and closes it to others.
pub(crate) fn private_dir(dir: &Path) -> Result<(), IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(IdentityError::io("create", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(IdentityError::io("set the mode of", dir))
}

/// Replaces the file at `path`: after a crash there is the old content or the new, whole.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let temporary = path.with_extension("new");
    let written = (|| {
        // A leftover of a crash may have another mode.
        match fs::remove_file(&temporary) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(IdentityError::io("write", path))
}

/// The content of the file at `path`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(IdentityError::io("read", path))
}

/// The same, as text.
pub(crate) fn read_text(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(IdentityError::io("read", path))
}

/// Whoever has it may change the files of `home`; other processes and threads wait.
pub(crate) fn lock(home: &Path) -> Result<Flock<File>, IdentityError> {
    let path = home.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(IdentityError::io("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| IdentityError::Io {
        what: "lock",
        path,
        why: errno.into(),
    })
}
