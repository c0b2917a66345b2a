//! The event with which an application asks for a usable access token.

use super::{
    Request,
    read::{BadEvent, Id, MAX_INTEGRATION_ID, MAX_TEAM_ID, duration, key},
};
use crate::domain::{ensure::EnsureRequest, secret::TokenDigest};
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
        duration(&text, TimeDelta::zero()..=MAX_VALID_FOR, EXPECTED).map(Self)
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
    let key = key(event.team_id, event.integration_id)?;
    let valid_for = event.valid_for.map_or(EnsureRequest::DEFAULT_VALID_FOR, |ValidFor(time)| time);
    Ok(Request::Ensure(EnsureRequest { key, valid_for, rejected: event.rejected_token_sha256 }))
}
