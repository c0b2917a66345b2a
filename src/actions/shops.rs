//! Stores the shops of an authorization in its row. Applications need the shops' ciphers for nearly every call.

use crate::{
    aws::dynamodb::updates,
    domain::{integration::IntegrationKey, secret::AccessToken, shop::Shop},
    services::Services,
};
use tracing::{debug, warn};

/// Stores the shops that TikTok lists for an access token, if the row still holds this token and its authorization. A failure is
/// only logged: the next `verify` stores the shops.
pub(super) async fn store(
    services: &Services,
    key: &IntegrationKey,
    access_token: &AccessToken,
    authorization_id: Option<&str>,
    shops: &[Shop],
) {
    match services.table.update(key, updates::store_shops(access_token, authorization_id, shops)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => debug!("the shops were not stored: another token was stored meanwhile"),
        Err(error) => warn!("could not store the integration's shops: {error}"),
    }
}
