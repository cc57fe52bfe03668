//! Objects' identities, kept in an extended attribute of the object (design D4; `docs/formats/upcall.md`).

use crate::{
    filter::error::Result,
    sys::{XattrTarget, get_xattr, remove_xattr, set_xattr},
};
use nix::errno::Errno;
use protocol::{Handle, HostId, ObjectId, Xattr};
use std::ffi::CStr;

/// [`Xattr::IDENTITY`] as the system calls take it.
pub(crate) const NAME: &CStr = c"trusted.intermezzo";
/// Version of the attribute's layout, its first byte; the id follows, and whatever Lento adds.
const VERSION: u8 = 1;
/// Version and id.
const BYTES: usize = 1 + ObjectId::BYTES;

/// [`Xattr::ABSENT`] as the system calls take it.
const ABSENT: &CStr = c"trusted.intermezzo.absent";

/// Whether only the attributes of an object are here: the names in a directory, or the content of a file, are not.
pub(crate) fn is_absent(target: XattrTarget<'_>) -> Result<bool> {
    match get_xattr(target, ABSENT, &mut []) {
        Ok(_) => Ok(true),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Says that only the attributes of an object are here.
pub(crate) fn set_absent(target: XattrTarget<'_>) -> Result<()> {
    Ok(set_xattr(target, ABSENT, &[1], 0)?)
}

/// Says that all of an object is here.
pub(crate) fn clear_absent(target: XattrTarget<'_>) -> Result<()> {
    Ok(remove_xattr(target, ABSENT)?)
}

/// Whether an attribute's name belongs to InterMezzo.
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(Xattr::IDENTITY.as_bytes())
}

/// Reads an object's id; `None` if it has none.
pub(crate) fn read(target: XattrTarget<'_>) -> Result<Option<ObjectId>> {
    let mut value = [0; 512];
    let length = match get_xattr(target, NAME, &mut value) {
        Ok(length) => length,
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => return Ok(None),
        Err(Errno::ERANGE) => {
            let mut large = vec![0; protocol::limits::XATTR_VALUE_BYTES];
            let length = get_xattr(target, NAME, &mut large)?;
            return Ok(parse(&large[..length]));
        }
        Err(error) => return Err(error.into()),
    };
    Ok(parse(&value[..length]))
}

fn parse(value: &[u8]) -> Option<ObjectId> {
    let (version, id) = value.split_first()?;
    if *version != VERSION {
        return None;
    }
    ObjectId::from_bytes(id).ok()
}

/// Gives an object its id.
pub(crate) fn write(target: XattrTarget<'_>, id: ObjectId) -> Result<()> {
    let mut value = [0; BYTES];
    value[0] = VERSION;
    value[1..].copy_from_slice(&id.to_bytes());
    Ok(set_xattr(target, NAME, &value, 0)?)
}

/// The id of an object that was put into the bottom behind the filter's back: the same each time it is computed.
pub(crate) fn adopted(host: HostId, handle: Handle) -> ObjectId {
    ObjectId::new(host, ObjectId::ADOPTED | handle.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lento_adds_is_ignored_and_other_versions_are_not_understood() {
        let id = ObjectId::new(HostId::new(3).expect("3 is not 0"), 77);
        let mut value = vec![1];
        value.extend_from_slice(&id.to_bytes());
        assert_eq!(parse(&value), Some(id));
        value.extend_from_slice(b"a stamp");
        assert_eq!(parse(&value), Some(id));
        value[0] = 2;
        assert_eq!(parse(&value), None);
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[1, 0, 0]), None);
    }
}
