//! A row as the status report reads it: without the tokens, only with the information whether they exist.

use crate::domain::{
    integration::{Candidate, UnixTime},
    shop::Shop,
};

/// Which tokens a row has. A filter expression finds missing tokens, so that the report reads none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredTokens {
    /// Both tokens.
    Both,
    /// Only a refresh token.
    NoAccessToken,
    /// No refresh token.
    NoRefreshToken,
}

/// A row as the status report reads it.
#[derive(Clone, Debug)]
pub struct ReportRow {
    /// The attributes that decide whether to refresh the row.
    pub candidate: Candidate,
    /// The seller's id for the app.
    pub open_id: Option<String>,
    /// When the tokens were last refreshed.
    pub last_refreshed_at: Option<UnixTime>,
    /// When the last failure was recorded.
    pub error_at: Option<UnixTime>,
    /// How many attempts have failed since the last success.
    pub consecutive_failures: i64,
    /// The shops that the authorization covers, as TikTok last listed them.
    pub authorized_shops: Vec<Shop>,
}
