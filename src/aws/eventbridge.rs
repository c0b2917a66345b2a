//! EventBridge: tells the user's platform of changes of state. That an entry could not be published never undoes what
//! it tells of.

use crate::{aws::Said, domain::integration::IntegrationKey};
use aws_sdk_eventbridge::{Client, types::PutEventsRequestEntry};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

/// The source of all entries.
const SOURCE: &str = "tiktok.shop.tokens";

/// A change of an integration's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The seller must connect again.
    CannotRefresh,
    /// An integration that could not be refreshed is alive again.
    Recovered,
    /// The refresh token expires in 30, 14, 7 or 1 days.
    RefreshTokenExpiring,
}

impl Change {
    fn detail_type(self) -> &'static str {
        match self {
            Self::CannotRefresh => "TikTok Shop Integration Cannot Refresh",
            Self::Recovered => "TikTok Shop Integration Recovered",
            Self::RefreshTokenExpiring => "TikTok Shop Refresh Token Expiring",
        }
    }
}

/// The user's event bus.
#[derive(Clone, Debug)]
pub struct EventBus {
    client: Client,
    name: String,
}

/// EventBridge would not take an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the event bus would not take an entry ({0}): check EVENT_BUS_NAME, and allow events:PutEvents on it"
)]
pub struct AnnounceError(String);

impl EventBus {
    /// The bus of this name or ARN.
    pub fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// Publishes a change of state.
    ///
    /// # Errors
    /// [`AnnounceError`]; the entry may then have been taken all the same.
    pub async fn announce(
        &self,
        change: Change,
        key: &IntegrationKey,
        seller_name: Option<&str>,
        reason: &str,
        at: DateTime<Utc>,
    ) -> Result<(), AnnounceError> {
        let detail = json!({
            "team_id": key.team_id,
            "integration_id": key.integration_id,
            "seller_name": seller_name,
            "reason": reason,
            "at": at.to_rfc3339_opts(SecondsFormat::Secs, true),
        });
        let entry = PutEventsRequestEntry::builder()
            .event_bus_name(&self.name)
            .source(SOURCE)
            .detail_type(change.detail_type())
            .detail(detail.to_string())
            .build();
        let answer = self
            .client
            .put_events()
            .entries(entry)
            .send()
            .await
            .map_err(|error| AnnounceError(Said::by(&error).to_string()))?;
        // EventBridge takes the request and refuses entries one by one.
        match answer.entries().iter().find_map(|entry| entry.error_code()) {
            Some(code) => Err(AnnounceError(code.to_owned())),
            None => Ok(()),
        }
    }
}
