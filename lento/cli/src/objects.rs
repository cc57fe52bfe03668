//! Commands that name files on a client's mount: the tree is walked here, through the mount, and the daemon is told
//! which objects are meant.

use crate::args::{PathsArgs, PinArgs};
use crate::control::{ByteText, Code, ControlRequest, Failure, ObjectsAction};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Objects named to the daemon at once.
const OBJECTS: usize = 4096;

/// What is to be done with which objects.
pub(crate) struct Plan {
    pub(crate) action: ObjectsAction,
    paths: Vec<(PathBuf, bool)>,
}

impl Plan {
    /// For `pin` and `unpin`.
    pub(crate) fn pin(args: PinArgs, action: ObjectsAction) -> Result<Self, Failure> {
        let mut paths: Vec<_> = args.paths.into_iter().map(|path| (path, args.recursive)).collect();
        if let Some(profile) = args.profile {
            let text = std::fs::read_to_string(&profile).map_err(|why| wrong(&profile, &why))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            paths.extend(lines.map(|line| (PathBuf::from(line), true)));
        }
        Ok(Self { action, paths })
    }

    /// For `prefetch` and `evict`.
    pub(crate) fn all_below(args: PathsArgs, action: ObjectsAction) -> Self {
        Self { action, paths: args.paths.into_iter().map(|path| (path, true)).collect() }
    }

    /// Calls `ask` with one request after the other.
    pub(crate) fn requests<E: From<Failure>>(
        self,
        mut ask: impl FnMut(ControlRequest) -> Result<(), E>,
    ) -> Result<(), E> {
        for (path, recursive) in self.paths {
            let at: ByteText = std::path::absolute(&path).map_err(|why| wrong(&path, &why))?.into();
            let mut batch = Vec::new();
            let mut todo = vec![path];
            while let Some(path) = todo.pop() {
                let metadata = std::fs::symlink_metadata(&path).map_err(|why| wrong(&path, &why))?;
                batch.push(metadata.ino());
                if batch.len() == OBJECTS {
                    ask(request(self.action, &at, std::mem::take(&mut batch)))?;
                }
                if recursive && metadata.is_dir() {
                    todo.extend(below(&path).map_err(|why| wrong(&path, &why))?);
                }
            }
            if !batch.is_empty() {
                ask(request(self.action, &at, batch))?;
            }
        }
        Ok(())
    }
}

fn wrong(path: &Path, why: &io::Error) -> Failure {
    let message = format!("{} cannot be read: {why}", path.display());
    Failure { message, hint: None, code: Code::Usage }
}

fn request(action: ObjectsAction, at: &ByteText, objects: Vec<u64>) -> ControlRequest {
    ControlRequest::Objects { action, at: at.clone(), objects }
}

fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
}
