//! The response to `connect_link`.

use crate::domain::integration::UnixTime;
use serde::Serialize;

/// The response to `connect_link`. The URL is a bearer secret for one row: it belongs to the seller alone.
#[derive(Clone, Serialize)]
pub struct ConnectLinkResponse {
    action: &'static str,
    /// TikTok's consent page, with the signed state.
    pub url: String,
    /// When the link stops working, in Unix seconds.
    pub expires_at: UnixTime,
}

impl ConnectLinkResponse {
    /// Creates the response.
    pub fn new(url: String, expires_at: UnixTime) -> Self {
        Self { action: "connect_link", url, expires_at }
    }
}

impl std::fmt::Debug for ConnectLinkResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectLinkResponse").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}
