//! The answer to `connect`.

use crate::domain::{
    grant::Grant,
    integration::{IntegrationKey, UnixTime},
};
use serde::Serialize;

/// The answer to a connection.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectResponse {
    action: &'static str,
    /// Which integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// `connected`, `reconnected` or `replaced`.
    pub outcome: &'static str,
    /// The seller's id for the app.
    pub open_id: Option<String>,
    /// The seller's name.
    pub seller_name: Option<String>,
    /// What the app may do.
    pub granted_scopes: Option<Vec<String>>,
    /// When the access token expires.
    pub access_token_expires_at: Option<UnixTime>,
    /// When the refresh token expires.
    pub refresh_token_expires_at: Option<UnixTime>,
}

impl ConnectResponse {
    /// What may be told of a grant that was stored.
    pub fn new(key: IntegrationKey, outcome: &'static str, grant: &Grant) -> Self {
        let seller = grant.seller.clone();
        Self {
            action: "connect",
            key,
            outcome,
            open_id: seller.open_id,
            seller_name: seller.name,
            granted_scopes: seller.granted_scopes,
            access_token_expires_at: grant.access_expires_at,
            refresh_token_expires_at: grant.refresh_expires_at,
        }
    }
}
