//! The event with which an application asks for a usable access token.

use super::{
    Request,
    read::{BadEvent, Id, MAX_INTEGRATION_ID, MAX_TEAM_ID, quoted},
};
use crate::domain::{ensure::EnsureRequest, integration::IntegrationKey, secret::TokenDigest};
use chrono::TimeDelta;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// The longest time that a token may be asked to live: a day, as some tokens live no longer.
const MAX_VALID_FOR: TimeDelta = TimeDelta::hours(24);
const EXPECTED: &str = "expected a duration from 0s to 24h, such as 5m";
const DIGEST: &str = "the access token's SHA-256 as 64 hex digits";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnsureEvent {
    #[serde(rename = "action")]
    _action: String,
    #[serde(default)]
    team_id: Id<MAX_TEAM_ID>,
    #[serde(default)]
    integration_id: Id<MAX_INTEGRATION_ID>,
    valid_for: Option<ValidFor>,
    #[serde(default, deserialize_with = "digest")]
    rejected_token_sha256: Option<TokenDigest>,
}

/// The value of `valid_for`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct ValidFor(TimeDelta);

impl TryFrom<String> for ValidFor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let duration = humantime::parse_duration(&text).ok().and_then(|time| TimeDelta::from_std(time).ok());
        match duration {
            Some(time) if time <= MAX_VALID_FOR => Ok(Self(time)),
            // A long text is no duration: a caller may have mixed up the keys, and sent a token.
            _ if text.len() > 20 => Err(format!("got {} characters, {EXPECTED}", text.chars().count())),
            _ => Err(format!("got {}, {EXPECTED}", quoted(&text))),
        }
    }
}

/// Deserializes the hash. The error never quotes the value: a caller may have sent the token itself.
fn digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TokenDigest>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => TokenDigest::parse(&text).map(Some).ok_or_else(|| {
            de::Error::custom(format!("got {} characters, expected {DIGEST}", text.chars().count()))
        }),
        _ => Err(de::Error::custom(format!("expected {DIGEST}"))),
    }
}

pub(super) fn request(event: EnsureEvent) -> Result<Request, BadEvent> {
    let missing = |name: &str| BadEvent(format!("{name}: missing, expected a string or an integer"));
    let key = IntegrationKey {
        team_id: event.team_id.0.ok_or_else(|| missing("team_id"))?,
        integration_id: event.integration_id.0.ok_or_else(|| missing("integration_id"))?,
    };
    let valid_for = event.valid_for.map_or(EnsureRequest::DEFAULT_VALID_FOR, |ValidFor(time)| time);
    Ok(Request::Ensure(EnsureRequest { key, valid_for, rejected: event.rejected_token_sha256 }))
}
