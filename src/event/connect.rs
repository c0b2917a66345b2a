//! The events that connect an integration, and the one that makes a link for its seller.

use super::{
    Request,
    read::{BadEvent, Id, MAX_INTEGRATION_ID, MAX_TEAM_ID, duration, key},
};
use crate::domain::{
    blanks::without_blanks,
    connect_link::{ConnectState, LinkTarget, Market, StateError},
    integration::IntegrationKey,
    quoted::quoted,
    secret::AuthCode,
};
use chrono::TimeDelta;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// How long a link works if the request does not say.
const DEFAULT_VALID_FOR: TimeDelta = TimeDelta::days(7);
const MIN_VALID_FOR: TimeDelta = TimeDelta::seconds(1);
const MAX_VALID_FOR: TimeDelta = TimeDelta::days(30);

/// The integration to connect, and the auth code to connect it with.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The integration: a new one, or one that its seller reconnects.
    pub key: IntegrationKey,
    /// The authorization code that TikTok sends to the app's redirect URL.
    pub auth_code: AuthCode,
    /// The app that the code was issued to. Defaults to the row's app, then to the secret's first app.
    pub app_key: Option<String>,
    /// Whether to overwrite a row that belongs to another seller.
    pub replace: bool,
}

impl PartialEq for ConnectRequest {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, &self.app_key, self.replace) == (&other.key, &other.app_key, other.replace)
            && self.auth_code.is_same_as(&other.auth_code)
    }
}

impl Eq for ConnectRequest {}

/// A request to connect the integration that a link was made for.
#[derive(Clone, Debug)]
pub struct ConnectByState {
    /// The state that TikTok sent back with the code.
    pub state: ConnectState,
    team_id: Option<String>,
    integration_id: Option<String>,
    app_key: Option<String>,
    auth_code: AuthCode,
    replace: bool,
}

impl PartialEq for ConnectByState {
    fn eq(&self, other: &Self) -> bool {
        self.state == other.state
            && (&self.team_id, &self.integration_id, &self.app_key, self.replace)
                == (&other.team_id, &other.integration_id, &other.app_key, other.replace)
            && self.auth_code.is_same_as(&other.auth_code)
    }
}

impl Eq for ConnectByState {}

impl ConnectByState {
    /// The request for the state's target.
    ///
    /// # Errors
    /// [`BadEvent`] if the request names an id or an app other than the state's.
    pub fn for_target(self, target: LinkTarget) -> Result<ConnectRequest, BadEvent> {
        let named = [
            ("team_id", &self.team_id, &target.key.team_id),
            ("integration_id", &self.integration_id, &target.key.integration_id),
            ("app_key", &self.app_key, &target.app_key),
        ];
        for (name, given, of_state) in named {
            if let Some(given) = given.as_ref().filter(|given| *given != of_state) {
                return Err(BadEvent(format!(
                    "{name}: got {}, expected the state's value or none, because the link was made for another {name}",
                    quoted(given)
                )));
            }
        }
        Ok(ConnectRequest {
            key: target.key,
            auth_code: self.auth_code,
            app_key: Some(target.app_key),
            replace: self.replace,
        })
    }
}

impl BadEvent {
    /// The error for a state that is not accepted.
    pub fn of_state(error: StateError) -> Self {
        Self(format!("state: {error}"))
    }
}

/// A request for a link with which a seller connects an integration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectLinkRequest {
    /// The integration.
    pub key: IntegrationKey,
    /// The app that the seller authorizes. Defaults to the row's app, then to the secret's first app.
    pub app_key: Option<String>,
    /// The market whose consent page the link leads to. Defaults to the app's.
    pub market: Option<Market>,
    /// How long the link works.
    pub valid_for: TimeDelta,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectEvent {
    #[serde(rename = "action")]
    _action: String,
    #[serde(default)]
    team_id: Id<MAX_TEAM_ID>,
    #[serde(default)]
    integration_id: Id<MAX_INTEGRATION_ID>,
    #[serde(default, deserialize_with = "auth_code")]
    auth_code: Option<AuthCode>,
    app_key: Option<String>,
    #[serde(default, deserialize_with = "state")]
    state: Option<ConnectState>,
    replace: Option<bool>,
}

/// Deserializes the auth code, without the blanks that people paste around it. Unlike serde's errors, the one here never quotes
/// the value, which is a secret.
fn auth_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AuthCode>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value.as_str().map(without_blanks) {
        Some(code) if !code.is_empty() => Ok(Some(code.to_owned().into())),
        _ => Err(de::Error::custom("expected a non-empty string")),
    }
}

/// Deserializes the state. The error never quotes the value, which is a secret.
fn state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ConnectState>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => ConnectState::parse(&text).map(Some).map_err(de::Error::custom),
        _ => Err(de::Error::custom(StateError::Malformed)),
    }
}

pub(super) fn request(event: ConnectEvent) -> Result<Request, BadEvent> {
    let auth_code = event
        .auth_code
        .ok_or_else(|| BadEvent("auth_code: missing, expected the authorization code from TikTok".into()))?;
    let app_key = event.app_key.filter(|key| !key.is_empty());
    let replace = event.replace.unwrap_or(false);
    Ok(match event.state {
        Some(state) => Request::ConnectByState(ConnectByState {
            state,
            team_id: event.team_id.0,
            integration_id: event.integration_id.0,
            app_key,
            auth_code,
            replace,
        }),
        None => Request::Connect(ConnectRequest {
            key: key(event.team_id, event.integration_id)?,
            auth_code,
            app_key,
            replace,
        }),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectLinkEvent {
    #[serde(rename = "action")]
    _action: String,
    #[serde(default)]
    team_id: Id<MAX_TEAM_ID>,
    #[serde(default)]
    integration_id: Id<MAX_INTEGRATION_ID>,
    app_key: Option<String>,
    market: Option<MarketName>,
    valid_for: Option<ValidFor>,
}

/// The value of `market`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct MarketName(Market);

impl TryFrom<String> for MarketName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let expected = || format!("got {}, expected \"global\" or \"us\"", quoted(&text));
        Market::parse(&text).map(Self).ok_or_else(expected)
    }
}

/// The value of `valid_for`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct ValidFor(TimeDelta);

impl TryFrom<String> for ValidFor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        duration(&text, MIN_VALID_FOR..=MAX_VALID_FOR, "expected a duration from 1s to 30d, such as 7d")
            .map(Self)
    }
}

pub(super) fn link_request(event: ConnectLinkEvent) -> Result<Request, BadEvent> {
    Ok(Request::ConnectLink(ConnectLinkRequest {
        key: key(event.team_id, event.integration_id)?,
        app_key: event.app_key.filter(|key| !key.is_empty()),
        market: event.market.map(|MarketName(market)| market),
        valid_for: event.valid_for.map_or(DEFAULT_VALID_FOR, |ValidFor(time)| time),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn link(more: &str) -> Result<Request, String> {
        let event = format!(r#"{{"action":"connect_link","team_id":1,"integration_id":"7"{more}}}"#);
        parse(&event).map_err(|error| error.to_string())
    }

    #[test]
    fn a_link_needs_only_the_ids() {
        let key = IntegrationKey { team_id: "1".into(), integration_id: "7".into() };
        let defaults = ConnectLinkRequest { key, app_key: None, market: None, valid_for: TimeDelta::days(7) };
        assert_eq!(link(""), Ok(Request::ConnectLink(defaults.clone())));
        assert_eq!(
            link(r#","app_key":null,"market":null,"valid_for":null"#),
            Ok(Request::ConnectLink(defaults.clone()))
        );
        assert_eq!(
            link(r#","app_key":"a","market":"us","valid_for":"30d""#),
            Ok(Request::ConnectLink(ConnectLinkRequest {
                app_key: Some("a".into()),
                market: Some(Market::Us),
                valid_for: TimeDelta::days(30),
                ..defaults
            }))
        );
        assert_eq!(
            parse(r#"{"action":"connect_link","team_id":1}"#).unwrap_err().to_string(),
            "bad event: integration_id: missing, expected a string or an integer"
        );
    }

    #[test]
    fn a_wrong_market_or_time_is_refused_by_name() {
        for market in ["US", "eu", ""] {
            assert_eq!(
                link(&format!(r#","market":"{market}""#)).unwrap_err(),
                format!("bad event: market: got {market:?}, expected \"global\" or \"us\"")
            );
        }
        for time in ["0s", "999ms", "31d", "7", "-1d", "30d 1s"] {
            assert_eq!(
                link(&format!(r#","valid_for":"{time}""#)).unwrap_err(),
                format!("bad event: valid_for: got {time:?}, expected a duration from 1s to 30d, such as 7d")
            );
        }
        for time in ["1s", "30d", "720h"] {
            assert!(link(&format!(r#","valid_for":"{time}""#)).is_ok(), "{time}");
        }
    }

    #[test]
    fn a_state_that_is_none_is_refused_without_being_quoted() {
        for state in [r#""s3cr3t""#, "7", "[]", r#""""#] {
            let event = format!(r#"{{"action":"connect","auth_code":"c","state":{state}}}"#);
            assert_eq!(
                parse(&event).unwrap_err().to_string(),
                "bad event: state: expected the state of a link from connect_link"
            );
        }
        let error = parse(r#"{"action":"connect","auth_code":"c","state":null}"#).unwrap_err().to_string();
        assert!(error.starts_with("bad event: team_id: missing"), "{error}");
    }
}
