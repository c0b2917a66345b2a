//! What an error of a library comes down to.

use std::error::Error;

/// The innermost cause of an error, by its `Display`: the outer ones only say that something failed.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
