//! Checks the rows of an import of existing tokens. No error quotes a value that may be a token.

use crate::domain::{
    blanks::without_blanks,
    integration::{IntegrationKey, Status, UnixTime},
    secret::{AccessToken, RefreshToken},
};
use serde::Serialize;
use std::collections::HashMap;

/// The maximum number of rows in a request.
pub const MAX_ROWS: usize = 100;
/// The largest row, in bytes of its JSON: DynamoDB's limit is 400 KB for an item with all that the function adds later.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
pub const MAX_ROW_BYTES: usize = 350_000;
/// The start of a Laravel ciphertext: base64 of `{"iv":`.
/// <https://github.com/laravel/framework/blob/12.x/src/Illuminate/Encryption/Encrypter.php>
const CIPHERTEXT: &str = "eyJpdiI6";
/// A number up to this one cannot be an expiry in Unix seconds: July 2017 is before TikTok Shop existed. Clients that store a
/// duration write 604800 or 31536000.
const LAST_DURATION: i64 = 1_500_000_000;
/// A number from this one on cannot be an expiry in Unix seconds, which would be the year 5138. It is in milliseconds (from 1973
/// on) or in a smaller unit.
const FIRST_IN_MILLISECONDS: i64 = 100_000_000_000;

/// A request to create rows for existing tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRequest {
    /// The rows, in the order of the request.
    pub rows: Vec<Row>,
    /// Whether to report only what would be created, without writing to the table.
    pub dry_run: bool,
}

/// A row of the request: what to create, or what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The ids, as far as they could be read.
    pub id: RowId,
    /// What to create.
    pub integration: Result<NewIntegration, Invalid>,
}

/// The ids of a row, as far as they could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowId {
    /// The team.
    pub team_id: Option<String>,
    /// The integration within its team.
    pub integration_id: Option<String>,
}

/// An integration to create.
#[derive(Clone, Debug)]
pub struct NewIntegration {
    /// The row's key.
    pub key: IntegrationKey,
    /// The row's status.
    pub status: Status,
    /// The app that the seller authorized; `None` means the default app.
    pub app_key: Option<String>,
    /// The access token.
    pub access_token: Option<AccessToken>,
    /// The refresh token.
    pub refresh_token: RefreshToken,
    /// When the access token expires.
    pub access_expires_at: Option<UnixTime>,
    /// When the refresh token expires.
    pub refresh_expires_at: Option<UnixTime>,
    /// The seller's id for the app.
    pub open_id: Option<String>,
    /// The seller's name.
    pub seller_name: Option<String>,
    /// The seller's region.
    pub seller_base_region: Option<String>,
    /// The scopes that the seller granted.
    pub granted_scopes: Option<Vec<String>>,
}

impl PartialEq for NewIntegration {
    fn eq(&self, other: &Self) -> bool {
        let plain = |row: &Self| {
            let texts =
                [&row.app_key, &row.open_id, &row.seller_name, &row.seller_base_region].map(Clone::clone);
            let times = (row.access_expires_at, row.refresh_expires_at);
            (row.key.clone(), row.status.clone(), times, texts, row.granted_scopes.clone())
        };
        let access_token = |row: &Self| row.access_token.as_ref().map(AccessToken::sha256);
        plain(self) == plain(other)
            && access_token(self) == access_token(other)
            && self.refresh_token.is_same_as(&other.refresh_token)
    }
}

impl Eq for NewIntegration {}

/// What is wrong with a row. The message names the field and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// The machine-readable reason.
    pub reason: &'static str,
    /// The reason, for people.
    pub message: String,
}

impl Invalid {
    /// Creates an error about a field.
    pub fn new(reason: &'static str, field: &str, problem: impl AsRef<str>) -> Self {
        Self { reason, message: format!("{field}: {}", problem.as_ref()) }
    }

    /// Creates the error for a value of the wrong type.
    pub fn wrong_type(field: &str, found: &str, expected: &str) -> Self {
        Self::new("wrong_type", field, format!("got {found}, expected {expected}"))
    }
}

/// Checks that DynamoDB can store a row of so many bytes.
///
/// # Errors
/// [`Invalid`], with both sizes.
pub fn size(bytes: usize) -> Result<(), Invalid> {
    if bytes > MAX_ROW_BYTES {
        let message = format!("got {bytes} bytes, expected at most {MAX_ROW_BYTES}");
        return Err(Invalid { reason: "row_too_large", message });
    }
    Ok(())
}

/// Checks an expiry in Unix seconds. Some clients store another unit, or a duration.
///
/// # Errors
/// [`Invalid`], which says what the number probably is.
pub fn expiry(field: &str, number: i64) -> Result<UnixTime, Invalid> {
    if number >= FIRST_IN_MILLISECONDS {
        let problem = format!("got {number}, which looks like milliseconds, expected Unix seconds");
        return Err(Invalid::new("expiry_in_milliseconds", field, problem));
    }
    if number <= LAST_DURATION {
        let problem = format!(
            "got {number}, which looks like a duration, expected Unix seconds: add it to the time of the grant, or leave it out"
        );
        return Err(Invalid::new("expiry_is_a_duration", field, problem));
    }
    Ok(UnixTime(number))
}

/// Checks that a text can be a token: it is not a ciphertext, and has no blanks.
///
/// # Errors
/// [`Invalid`]. The message does not quote the text.
pub fn token(field: &str, text: String) -> Result<String, Invalid> {
    if without_blanks(&text).starts_with(CIPHERTEXT) {
        let problem = "got a Laravel ciphertext, expected the decrypted token";
        return Err(Invalid::new("encrypted_token", field, problem));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Invalid::new("blanks_in_token", field, "got a text with blanks, expected a token"));
    }
    Ok(text)
}

/// Checks a status.
///
/// # Errors
/// [`Invalid`], if the text is probably meant to be `active`.
pub fn status(text: &str) -> Result<Status, Invalid> {
    let status = Status::parse(text);
    if status.is_nearly_active() {
        let problem = "differs from \"active\" only by case or blanks: correct it, or leave it out";
        return Err(Invalid::new("status_nearly_active", "status", problem));
    }
    Ok(status)
}

/// Makes a row invalid if an earlier row has the same key, because nobody can tell which of the two is right.
pub fn refuse_duplicates(rows: &mut [Row]) {
    let mut first: HashMap<IntegrationKey, usize> = HashMap::new();
    for (index, row) in rows.iter_mut().enumerate() {
        let Ok(integration) = &row.integration else { continue };
        match first.get(&integration.key) {
            None => drop(first.insert(integration.key.clone(), index)),
            Some(earlier) => {
                let message = format!("the same team_id and integration_id as row {}", earlier + 1);
                row.integration = Err(Invalid { reason: "duplicate_key", message });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_expiry_is_in_unix_seconds() {
        for real in [1_500_000_001, 1_764_100_000, 4_841_467_787, 99_999_999_999] {
            assert_eq!(expiry("access_token_expires_at", real), Ok(UnixTime(real)));
        }
        for (number, reason) in [
            (604_800, "expiry_is_a_duration"),
            (31_536_000, "expiry_is_a_duration"),
            (0, "expiry_is_a_duration"),
            (-1, "expiry_is_a_duration"),
            (i64::MIN, "expiry_is_a_duration"),
            (100_000_000_000, "expiry_in_milliseconds"),
            (1_764_100_000_000, "expiry_in_milliseconds"),
            (i64::MAX, "expiry_in_milliseconds"),
        ] {
            let error = expiry("refresh_token_expires_at", number).unwrap_err();
            assert_eq!(error.reason, reason, "{number}");
            assert!(error.message.starts_with(&format!("refresh_token_expires_at: got {number}, ")));
        }
    }

    #[test]
    fn a_token_is_neither_a_ciphertext_nor_has_it_blanks() {
        assert_eq!(token("refresh_token", "TTR_x".into()).unwrap(), "TTR_x");
        for (text, reason) in [
            ("eyJpdiI6Ik9r", "encrypted_token"),
            ("\neyJpdiI6Ik9r", "encrypted_token"),
            ("TTR_x\n", "blanks_in_token"),
            ("TTR x", "blanks_in_token"),
            ("TTR_x\u{0}", "blanks_in_token"),
        ] {
            assert_eq!(token("refresh_token", text.into()).unwrap_err().reason, reason, "{text:?}");
        }
    }

    #[test]
    fn a_status_is_active_or_clearly_something_else() {
        assert_eq!(status("active"), Ok(Status::Active));
        assert_eq!(status("error"), Ok(Status::Error));
        assert_eq!(status("paused"), Ok(Status::Other("paused".into())));
        for slip in ["Active", "ACTIVE", " active", "active\n"] {
            assert_eq!(status(slip).unwrap_err().reason, "status_nearly_active", "{slip:?}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_seconds_or_refused(number in any::<i64>()) {
            let is_seconds = (LAST_DURATION + 1..FIRST_IN_MILLISECONDS).contains(&number);
            prop_assert_eq!(expiry("x", number).is_ok(), is_seconds);
        }

        #[test]
        fn no_error_quotes_a_token(text in "[ -~\\n]{4,40}") {
            if let Err(error) = token("refresh_token", text.clone()) {
                prop_assert!(!error.message.contains(&text));
            }
        }
    }
}
