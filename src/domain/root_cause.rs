//! The root cause of a library's error.

use std::error::Error;

/// The message of an error's innermost source. The outer messages only say that something failed.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
