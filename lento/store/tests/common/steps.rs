//! Random operations at a source.

use super::{Source, acl, tree};
use nix::sys::stat::SFlag;
use protocol::Timestamp;
use std::fs;

/// One step: which operation, and what it picks its arguments with.
pub type Step = (u8, u8, u8, u8);

/// Objects as paths: directories (the root is ""), and everything else.
struct Paths {
    dirs: Vec<String>,
    others: Vec<String>,
}

fn paths(source: &Source) -> Paths {
    let mut found = Paths { dirs: vec![String::new()], others: Vec::new() };
    for path in tree(&source.side.root).into_keys().skip(1) {
        let text = path.to_str().unwrap().to_owned();
        if fs::symlink_metadata(source.path(&text)).unwrap().is_dir() {
            found.dirs.push(text);
        } else {
            found.others.push(text);
        }
    }
    found
}

fn pick(list: &[String], n: u8) -> Option<String> {
    (!list.is_empty()).then(|| list[usize::from(n) % list.len()].clone())
}

/// Does one step, if it can be done.
pub fn act(source: &mut Source, (op, a, b, c): Step) -> Option<()> {
    let Paths { dirs, others } = paths(source);
    let files: Vec<_> =
        others.iter().filter(|p| fs::symlink_metadata(source.path(p)).unwrap().is_file()).cloned().collect();
    let all: Vec<_> = dirs.iter().skip(1).chain(&others).cloned().collect();
    let dir = pick(&dirs, a)?;
    let new = format!("{dir}{}{}", if dir.is_empty() { "" } else { "/" }, ["p", "q", "r", "s"][usize::from(b) % 4]);
    let vacant = fs::symlink_metadata(source.path(&new)).is_err();
    let time = Timestamp { secs: i64::from(a) * 1_000_003, nanos: u32::from(b) * 1_000_007 };
    match op % 18 {
        0 | 1 if vacant => source.create(&new, &vec![c; usize::from(c)]),
        2 | 3 if vacant => source.mkdir(&new),
        4 if vacant => source.symlink(&new, &format!("to/{c}")),
        5 if vacant => source.mknod(&new, if c % 2 == 0 { SFlag::S_IFIFO } else { SFlag::S_IFSOCK }, 0),
        6 if vacant => source.link(&pick(&others, c)?, &new),
        7 => source.unlink(&pick(&others, c)?),
        8 => {
            let gone = pick(&dirs[1..], c)?;
            if fs::read_dir(source.path(&gone)).unwrap().next().is_none() {
                source.rmdir(&gone);
            }
        }
        9..=11 => {
            let from = pick(&all, c)?;
            source.rename(&from, &new, op % 18 == 11 && !vacant);
        }
        12 => source.write(&pick(&files, a)?, &vec![b; usize::from(c) * 7]),
        13 => source.chmod(&pick(&files, a)?, u16::from(b) * 16 + u16::from(c % 16)),
        14 => source.chown(&pick(&all, a)?, b.into(), c.into()),
        15 => source.utimes(&pick(&all, c)?, time),
        16 => source.setxattr(&pick(&dirs[1..], a)?, "user.x", &[b; 5]),
        17 => source.setxattr(&pick(&files, a)?, "system.posix_acl_access", &acl(b.into())),
        _ => return None,
    }
    Some(())
}
