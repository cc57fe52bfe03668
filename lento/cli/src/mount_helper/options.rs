//! The arguments with which `mount(8)` calls its helpers: `mount.presto NAME DIR [-sfnv] [-t TYPE] [-o OPTIONS]`.

use crate::{
    args::{WaitOptions, parse_duration},
    control::MountChoice,
};
use protocol::FileSetName;
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    time::Duration,
};

/// Options that say what is so anyway, or that are for others: `mount(8)`, systemd, scripts.
const IGNORED: &[&str] =
    &["", "defaults", "_netdev", "nofail", "auto", "noauto", "nouser", "suid", "dev", "exec", "async"];

/// What is to be mounted, where and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: FileSetName,
    pub(super) dir: PathBuf,
    pub(super) choice: MountChoice,
    /// The host's state, if it was said where.
    pub(super) home: Option<PathBuf>,
    /// All is checked, and nothing done.
    pub(super) fake: bool,
    pub(super) verbose: bool,
}

/// Flags, and the values of options as they were given.
#[derive(Default)]
struct Words {
    places: Vec<OsString>,
    options: Vec<OsString>,
    sloppy: bool,
    fake: bool,
    verbose: bool,
}

/// Reads the arguments, without the program's name; an error says which one is wrong.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Call, String> {
    let words = split(args)?;
    let Words { places, options, sloppy, fake, verbose } = words;
    let [name, dir] = <[OsString; 2]>::try_from(places)
        .map_err(|places| format!("a file set and a directory are wanted, not {} words", places.len()))?;
    let shown = name.to_string_lossy().into_owned();
    let name = shown.parse().map_err(|why| format!("{shown:?} is no name of a file set: {why}"))?;
    let mut read = Read::default();
    for option in options.iter().flat_map(|list| list.as_bytes().split(|b| *b == b',')) {
        if !read.take(option)? && !sloppy {
            let option = String::from_utf8_lossy(option);
            return Err(format!("unknown mount option {option:?}; with -s it is ignored"));
        }
    }
    let choice = read.choice()?;
    Ok(Call { name, dir: dir.into(), choice, home: read.home, fake, verbose })
}

fn split(args: impl IntoIterator<Item = OsString>) -> Result<Words, String> {
    let mut words = Words::default();
    let mut args = args.into_iter();
    let mut only_places = false;
    while let Some(arg) = args.next() {
        let flags = match arg.as_bytes() {
            b"--" if !only_places => {
                only_places = true;
                continue;
            }
            [b'-', flags @ ..] if !only_places && !flags.is_empty() => flags.to_vec(),
            _ => {
                words.places.push(arg);
                continue;
            }
        };
        for (at, flag) in flags.iter().enumerate() {
            match flag {
                b's' => words.sloppy = true,
                b'f' => words.fake = true,
                // There is no /etc/mtab to leave out.
                b'n' => {}
                b'v' => words.verbose = true,
                b'o' | b't' => {
                    let rest = &flags[at + 1..];
                    let value = if rest.is_empty() { args.next() } else { Some(OsString::from_vec(rest.to_vec())) };
                    let value = value.ok_or_else(|| format!("-{} wants a value", char::from(*flag)))?;
                    if *flag == b'o' {
                        words.options.push(value);
                    }
                    break;
                }
                other => return Err(format!("unknown flag -{}", char::from(*other).escape_default())),
            }
        }
    }
    Ok(words)
}

/// What the options say; a later one overrides an earlier one.
#[derive(Default)]
struct Read {
    hard: bool,
    soft: bool,
    timeout: Option<Duration>,
    read_only: bool,
    cache_bytes: Option<u64>,
    home: Option<PathBuf>,
}

impl Read {
    /// Takes one option; `false` if it is not known.
    fn take(&mut self, option: &[u8]) -> Result<bool, String> {
        let mut parts = option.splitn(2, |b| *b == b'=');
        let key = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let value = parts.next();
        let text = || {
            let value = value.map(String::from_utf8_lossy).filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("mount option {key} wants a value: {key}=…"))
        };
        match (&key[..], value) {
            ("hard", None) => (self.hard, self.soft) = (true, false),
            ("soft", None) => (self.hard, self.soft) = (false, true),
            ("timeout", _) => {
                let text = text()?;
                let time = parse_duration(&text).map_err(|why| format!("mount option timeout={text}: {why}"))?;
                self.timeout = Some(time);
            }
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("cache-size", _) => {
                let text = text()?;
                let size = text.parse::<bytesize::ByteSize>();
                let size =
                    size.map_err(|why| format!("mount option cache-size={text}: {why}; write it as 500M or 20G"))?;
                self.cache_bytes = Some(size.as_u64());
            }
            ("home", _) => {
                text()?;
                self.home = value.map(|value| OsStr::from_bytes(value).into());
            }
            ("comment", _) => {}
            (known, None) if IGNORED.contains(&known) => {}
            (other, _) if other.starts_with("x-") || other.starts_with("X-") => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn choice(&self) -> Result<MountChoice, String> {
        if self.timeout.is_some() && !self.soft {
            return Err("mount option timeout is for soft mounts: say soft, too".into());
        }
        let waiting = WaitOptions { hard: self.hard, soft: self.soft, timeout: self.timeout };
        Ok(MountChoice { wait: waiting.choice(), cache_bytes: self.cache_bytes, read_only: self.read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::WaitPolicy;

    fn call(line: &str) -> Result<Call, String> {
        parse(line.split(' ').map(OsString::from))
    }

    fn choice(options: &str) -> MountChoice {
        call(&format!("web /mnt/web -o {options}")).expect("legal").choice
    }

    #[test]
    fn a_line_of_fstab_is_read_as_mount_passes_it_on() {
        let expected = Call {
            name: "web".parse().expect("legal"),
            dir: "/mnt/web".into(),
            choice: MountChoice { wait: Some(WaitPolicy::Hard), cache_bytes: Some(20_000_000_000), read_only: false },
            home: None,
            fake: false,
            verbose: false,
        };
        assert_eq!(call("web /mnt/web -o rw,_netdev,nofail,hard,cache-size=20G"), Ok(expected));
        assert_eq!(choice("defaults"), MountChoice::default());
        assert_eq!(call("web /mnt/web").map(|call| call.choice), Ok(MountChoice::default()));
    }

    #[test]
    fn options_say_how_and_the_last_one_counts() {
        let soft = |timeout_ms| Some(WaitPolicy::Soft { timeout_ms });
        assert_eq!(choice("soft").wait, soft(30_000));
        assert_eq!(choice("timeout=5s,soft").wait, soft(5_000));
        assert_eq!(choice("soft,hard").wait, Some(WaitPolicy::Hard));
        assert!(choice("rw,ro").read_only && !choice("ro,rw").read_only);
        assert_eq!(choice("cache-size=1GiB").cache_bytes, Some(1 << 30));
        let several = call("web -o ro /mnt/web -osoft,home=/srv/h=1").expect("legal");
        assert!(several.choice.read_only);
        assert_eq!((several.choice.wait, several.home), (soft(30_000), Some("/srv/h=1".into())));
    }

    #[test]
    fn what_is_for_others_is_ignored_and_what_is_unknown_refused_unless_sloppy() {
        let others =
            "auto,noauto,nouser,suid,dev,exec,async,comment=a b,x-systemd.requires=lento.service,X-mount.mkdir,";
        assert_eq!(
            parse(["web", "/m", "-o", others].map(OsString::from)).map(|call| call.choice),
            Ok(MountChoice::default())
        );
        for unknown in ["noexec", "user", "remount", "hard=1", "_netdev=1", "cachesize=1G"] {
            let refused = call(&format!("web /m -o {unknown}")).expect_err("unknown");
            assert!(refused.contains(unknown), "{refused}");
            assert!(call(&format!("web /m -s -o {unknown}")).is_ok());
        }
        assert!(call("web /m -s -o timeout=soon,soft").is_err(), "a value that is wrong is no unknown option");
    }

    #[test]
    fn flags_are_those_of_mount() {
        let flagged = call("-fnv -t fuse.presto web -- /m").expect("legal");
        assert!(flagged.fake && flagged.verbose);
        assert_eq!(call("web -- -m").map(|call| call.dir), Ok("-m".into()));
        assert!(call("web /m -x").expect_err("unknown").contains("-x"));
        assert!(call("web /m -o").expect_err("no value").contains("-o"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = [
            ("web", "1 words"),
            ("web /m extra", "3 words"),
            ("Not/A/Name /m", "Not/A/Name"),
            ("web /m -o timeout=5s", "soft"),
            ("web /m -o soft,timeout=soon", "timeout=soon"),
            ("web /m -o cache-size=much", "cache-size=much"),
            ("web /m -o cache-size", "cache-size=…"),
            ("web /m -o home=", "home=…"),
        ];
        for (line, word) in wrong {
            let why = call(line).expect_err(line);
            assert!(why.contains(word), "{line}: {why}");
        }
    }
}
