//! A row as the status report sees it: no token, only whether there is one.

use crate::domain::integration::{Candidate, UnixTime};

/// Which of a row's tokens are there. Their absence is found by a filter, so that none is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredTokens {
    /// Both.
    Both,
    /// A refresh token alone.
    NoAccessToken,
    /// No refresh token.
    NoRefreshToken,
}

/// A row as the report sees it.
#[derive(Clone, Debug)]
pub struct ReportRow {
    /// What decides over it.
    pub candidate: Candidate,
    /// The seller's id for the app.
    pub open_id: Option<String>,
    /// The seller's name.
    pub seller_name: Option<String>,
    /// When its tokens were last refreshed.
    pub last_refreshed_at: Option<UnixTime>,
    /// The last failure's code.
    pub error_code: Option<String>,
    /// The last failure, for a person.
    pub error_message: Option<String>,
    /// When it failed.
    pub error_at: Option<UnixTime>,
    /// How many attempts have failed since the last success.
    pub consecutive_failures: i64,
}
