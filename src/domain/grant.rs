//! What a redeemed refresh token yields: the pair that must not be lost.

use crate::domain::{
    integration::UnixTime,
    secret::{AccessToken, RefreshToken},
};

/// A new pair of tokens, and what TikTok said of the seller.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The new access token.
    pub access_token: AccessToken,
    /// When it expires, as TikTok said it; none if TikTok said nothing readable.
    pub access_expires_at: Option<UnixTime>,
    /// The new refresh token; none if the old one stays.
    pub refresh_token: Option<RefreshToken>,
    /// When the refresh token expires.
    pub refresh_expires_at: Option<UnixTime>,
    /// What TikTok said of the seller.
    pub seller: Seller,
}

/// The seller behind an authorization.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seller {
    /// The seller's id for this app.
    pub open_id: Option<String>,
    /// The seller's name.
    pub name: Option<String>,
    /// The seller's market.
    pub base_region: Option<String>,
    /// What the app may do.
    pub granted_scopes: Option<Vec<String>>,
}
