//! EventBridge: publishes state changes to the user's event bus. A failure to publish never undoes the change.

use crate::{aws::AwsError, domain::integration::IntegrationKey};
use aws_sdk_eventbridge::{Client, types::PutEventsRequestEntry};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

/// The `source` of every event.
const SOURCE: &str = "tiktok.shop.tokens";

/// A change of an integration's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// The seller must connect again.
    CannotRefresh,
    /// An integration that could not be refreshed works again.
    Recovered,
    /// The refresh token expires in 30, 14, 7 or 1 days.
    RefreshTokenExpiring,
}

impl StateChange {
    /// Whether the seller is asked to connect again.
    pub fn asks_the_seller(self) -> bool {
        match self {
            Self::CannotRefresh | Self::RefreshTokenExpiring => true,
            Self::Recovered => false,
        }
    }

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

/// EventBridge did not accept an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the event bus did not accept an event ({0}): check EVENT_BUS_NAME, and allow events:PutEvents on it"
)]
pub struct PublishError(String);

impl EventBus {
    /// The event bus with this name or ARN.
    pub fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// Publishes a state change, with the link for the seller if there is one.
    ///
    /// # Errors
    /// [`PublishError`]; EventBridge may have accepted the event all the same.
    pub async fn publish(
        &self,
        change: StateChange,
        key: &IntegrationKey,
        seller_name: Option<&str>,
        reason: &str,
        at: DateTime<Utc>,
        connect_url: Option<&str>,
    ) -> Result<(), PublishError> {
        let mut detail = json!({
            "team_id": key.team_id,
            "integration_id": key.integration_id,
            "seller_name": seller_name,
            "reason": reason,
            "at": at.to_rfc3339_opts(SecondsFormat::Secs, true),
        });
        if let Some(url) = connect_url {
            detail["connect_url"] = url.into();
        }
        let entry = PutEventsRequestEntry::builder()
            .event_bus_name(&self.name)
            .source(SOURCE)
            .detail_type(change.detail_type())
            .detail(detail.to_string())
            .build();
        let response = self
            .client
            .put_events()
            .entries(entry)
            .send()
            .await
            .map_err(|error| PublishError(AwsError::of(&error).to_string()))?;
        // EventBridge can accept the request and still refuse an entry.
        match response.entries().iter().find_map(|entry| entry.error_code()) {
            Some(code) => Err(PublishError(code.to_owned())),
            None => Ok(()),
        }
    }
}
