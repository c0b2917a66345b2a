//! The response to `connect`.

use crate::domain::{
    grant::Grant,
    integration::{IntegrationKey, UnixTime},
};
use serde::Serialize;

/// The response to `connect`.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectResponse {
    action: &'static str,
    /// The integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// `connected`, `reconnected` or `replaced`.
    pub outcome: &'static str,
    /// The seller's `open_id`, which TikTok issues for each app and seller.
    pub open_id: Option<String>,
    /// The seller's name.
    pub seller_name: Option<String>,
    /// The scopes that the seller granted to the app.
    pub granted_scopes: Option<Vec<String>>,
    /// When the access token expires, in Unix seconds.
    pub access_token_expires_at: Option<UnixTime>,
    /// When the refresh token expires, in Unix seconds.
    pub refresh_token_expires_at: Option<UnixTime>,
}

impl ConnectResponse {
    /// Creates the response for a stored grant, without its tokens.
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
