//! What a command of the user can fail with, with what to do about it.

use lento_cli::control::{Code, Failure};
use std::fmt::Display;

/// A failure with a message only.
pub(super) fn failed(message: impl Display) -> Failure {
    Failure { message: message.to_string(), hint: None, code: Code::Failed }
}

/// A failure that says what to do.
pub(super) fn hinted(message: impl Display, hint: impl Display) -> Failure {
    Failure { message: message.to_string(), hint: Some(hint.to_string()), code: Code::Failed }
}

/// No such file set on this host.
pub(super) fn no_fileset(name: &impl Display) -> Failure {
    Failure {
        message: format!("there is no file set {name} on this host"),
        hint: Some("`lento fileset list` shows those that are".into()),
        code: Code::Usage,
    }
}
