//! Bytes that are mostly text (paths, names, link targets) in JSON and on a terminal, without loss (design D15).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// Bytes, shown as text. In JSON a string if they are UTF-8, else `{"hex": "66ff"}`, so that nothing is lost and the
/// usual case is read with ease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct ByteText(pub Vec<u8>);

impl ByteText {
    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl From<&[u8]> for ByteText {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<&Path> for ByteText {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<PathBuf> for ByteText {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string().into_vec())
    }
}

impl From<ByteText> for PathBuf {
    fn from(text: ByteText) -> Self {
        Self::from(OsString::from_vec(text.0))
    }
}

impl fmt::Display for ByteText {
    /// UTF-8 as it is, but control characters and bytes that are not UTF-8 as `\xNN`: a name cannot steer a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form<'a> {
    Text(std::borrow::Cow<'a, str>),
    Hex { hex: String },
}

impl Serialize for ByteText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Form::Text(text.into()),
            Err(_) => Form::Hex { hex: self.0.iter().map(|byte| format!("{byte:02x}")).collect() },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ByteText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(Self(text.into_owned().into_bytes())),
            Form::Hex { hex } => {
                unhex(&hex).map(Self).ok_or_else(|| serde::de::Error::custom("not pairs of hex digits"))
            }
        }
    }
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::ByteText;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_byte_is_lost_in_json(bytes: Vec<u8>) {
            let text = ByteText(bytes);
            let json = serde_json::to_string(&text).expect("any bytes have a form");
            prop_assert_eq!(serde_json::from_str::<ByteText>(&json).expect("own form"), text);
        }

        #[test]
        fn what_is_shown_never_steers_the_terminal(bytes: Vec<u8>) {
            let shown = ByteText(bytes).to_string();
            prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
        }
    }

    #[test]
    fn text_stays_readable() {
        let name = ByteText("grün \u{1b}[31m".as_bytes().to_vec());
        assert_eq!(name.to_string(), "grün \\u{1b}[31m");
        assert_eq!(serde_json::to_string(&ByteText(b"a/b".to_vec())).expect("text"), "\"a/b\"");
        assert_eq!(serde_json::to_string(&ByteText(b"f\xff".to_vec())).expect("hex"), r#"{"hex":"66ff"}"#);
    }
}
