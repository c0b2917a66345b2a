//! The token pair that TikTok returns for a refresh token or an auth code. It must never be lost.

use crate::domain::{
    integration::UnixTime,
    secret::{AccessToken, RefreshToken},
};

/// A new token pair and its seller.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The new access token.
    pub access_token: AccessToken,
    /// When the access token expires; `None` if TikTok sent no readable expiry.
    pub access_expires_at: Option<UnixTime>,
    /// The new refresh token; `None` if the old one stays valid.
    pub refresh_token: Option<RefreshToken>,
    /// When the refresh token expires; `None` if TikTok sent no readable expiry.
    pub refresh_expires_at: Option<UnixTime>,
    /// The seller who authorized the app.
    pub seller: Seller,
}

/// The seller who authorized the app, as TikTok describes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seller {
    /// The seller's id for this app.
    pub open_id: Option<String>,
    /// The seller's name.
    pub name: Option<String>,
    /// The seller's market, such as `VN`.
    pub base_region: Option<String>,
    /// The scopes that the seller granted to the app.
    pub granted_scopes: Option<Vec<String>>,
}
