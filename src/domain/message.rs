//! The messages that the function sends to its own queue. A work message lists keys, but no tokens, which would be stale on
//! delivery. A rescue message holds a token pair that DynamoDB did not accept; the queue is encrypted.

use crate::domain::{
    grant::{Grant, Seller},
    integration::{IntegrationKey, Status, UnixTime},
    secret::{AccessToken, Fingerprint, RefreshToken},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

/// The maximum number of keys in a work message.
pub const KEYS_PER_MESSAGE: usize = 50;

/// A message of the queue.
#[derive(Debug)]
pub enum Message {
    /// Integrations to refresh.
    Work(Work),
    /// A token pair to save.
    Rescue(Box<Rescue>),
}

/// Integrations to refresh, sent by a run that fans out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Whether an operator forced the run.
    pub force: bool,
    /// When the run started. A row that was refreshed since is skipped, so that delivering a message twice is harmless.
    pub run_started_at: UnixTime,
    /// The fingerprint of the app's credentials, if the run has proved that they are right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved: Option<Fingerprint>,
    /// The app, if a scan of the whole table found that this is its only active integration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_one_of: Option<String>,
    /// The integrations to refresh.
    pub integrations: Vec<WorkKey>,
}

/// One integration to refresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkKey {
    /// The row's key.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// The app that the seller authorized; `None` means the default app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_key: Option<String>,
}

/// A token pair that DynamoDB did not accept, and what a later save needs to know.
#[derive(Debug)]
pub struct Rescue {
    /// The row's key.
    pub key: IntegrationKey,
    /// The row's status when the lease was acquired.
    pub status: Status,
    /// The row's `open_id` when the lease was acquired.
    pub open_id: Option<String>,
    /// The row's authorization when the lease was acquired.
    pub generation: Generation,
    /// The app that granted the token pair; `None` in a message of version 0.1.
    pub app_key: Option<String>,
    /// The row's access token when the lease was acquired.
    pub access_token: Option<AccessToken>,
    /// The refresh token that TikTok redeemed.
    pub sent: RefreshToken,
    /// The token pair to save.
    pub grant: Grant,
}

/// Which authorization a token pair belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// The row's `authorization_id`, or its absence.
    Known(Option<String>),
    /// The message was written before rows had an `authorization_id`.
    #[default]
    Unknown,
}

/// A message that this function did not send. The error never quotes the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message from this function: {0}")]
pub struct BadMessage(&'static str);

impl Work {
    /// Serializes the message.
    pub fn to_json(&self) -> String {
        json!({ "kind": "work", "work": self }).to_string()
    }
}

impl Rescue {
    /// Serializes the message, including its tokens. Only for the encrypted queue.
    pub fn to_json(&self) -> String {
        let grant = &self.grant;
        let mut message = json!({
            "kind": "rescue",
            "rescue": {
                "team_id": self.key.team_id,
                "integration_id": self.key.integration_id,
                "status": self.status.as_str(),
                "open_id": self.open_id,
                "app_key": self.app_key,
                "access_token": self.access_token.as_ref().map(AccessToken::expose),
                "sent": self.sent.expose(),
                "granted": {
                    "access_token": grant.access_token.expose(),
                    "access_expires_at": grant.access_expires_at,
                    "refresh_token": grant.refresh_token.as_ref().map(RefreshToken::expose),
                    "refresh_expires_at": grant.refresh_expires_at,
                    "open_id": grant.seller.open_id,
                    "name": grant.seller.name,
                    "base_region": grant.seller.base_region,
                    "granted_scopes": grant.seller.granted_scopes,
                },
            },
        });
        if let Generation::Known(id) = &self.generation {
            message["rescue"]["authorization_id"] = json!(id);
        }
        message.to_string()
    }
}

/// Parses a message.
///
/// # Errors
/// [`BadMessage`] if the text is not a message from this function.
pub fn parse(text: &str) -> Result<Message, BadMessage> {
    #[derive(Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    enum Text {
        Work { work: Work },
        Rescue { rescue: Box<RescueText> },
    }
    let text: Text = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => BadMessage("it has unexpected keys or types"),
        _ => BadMessage("it is not JSON"),
    })?;
    match text {
        Text::Work { work } if work.integrations.len() > KEYS_PER_MESSAGE => {
            Err(BadMessage("it has too many keys"))
        }
        Text::Work { work } => Ok(Message::Work(work)),
        Text::Rescue { rescue } => Ok(Message::Rescue(Box::new((*rescue).into()))),
    }
}

/// The key of the integration in a rescue message that [`parse`] refuses, if the key is readable.
pub fn key_of(text: &str) -> Option<IntegrationKey> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let id = |name: &str| json["rescue"][name].as_str().map(String::from);
    Some(IntegrationKey { team_id: id("team_id")?, integration_id: id("integration_id")? })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RescueText {
    team_id: String,
    integration_id: String,
    status: String,
    open_id: Option<String>,
    #[serde(default, rename = "authorization_id")]
    generation: Generation,
    #[serde(default)]
    app_key: Option<String>,
    access_token: Option<AccessToken>,
    sent: RefreshToken,
    granted: GrantText,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantText {
    access_token: AccessToken,
    access_expires_at: Option<UnixTime>,
    refresh_token: Option<RefreshToken>,
    refresh_expires_at: Option<UnixTime>,
    open_id: Option<String>,
    name: Option<String>,
    base_region: Option<String>,
    granted_scopes: Option<Vec<String>>,
}

impl<'de> Deserialize<'de> for Generation {
    /// `null` is a known absence; only an absent key is [`Generation::Unknown`], the default.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::Known)
    }
}

impl From<RescueText> for Rescue {
    fn from(text: RescueText) -> Self {
        let granted = text.granted;
        Self {
            key: IntegrationKey { team_id: text.team_id, integration_id: text.integration_id },
            status: Status::parse(&text.status),
            open_id: text.open_id,
            generation: text.generation,
            app_key: text.app_key,
            access_token: text.access_token,
            sent: text.sent,
            grant: Grant {
                access_token: granted.access_token,
                access_expires_at: granted.access_expires_at,
                refresh_token: granted.refresh_token,
                refresh_expires_at: granted.refresh_expires_at,
                seller: Seller {
                    open_id: granted.open_id,
                    name: granted.name,
                    base_region: granted.base_region,
                    granted_scopes: granted.granted_scopes,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rescue() -> Rescue {
        Rescue {
            key: IntegrationKey { team_id: "1".into(), integration_id: "7".into() },
            status: Status::Error,
            open_id: Some("o".into()),
            generation: Generation::Known(None),
            app_key: Some("a".into()),
            access_token: Some("TTP_old".to_owned().into()),
            sent: "TTR_sent".to_owned().into(),
            grant: Grant {
                access_token: "TTP_new".to_owned().into(),
                access_expires_at: Some(UnixTime(1)),
                refresh_token: Some("TTR_new".to_owned().into()),
                refresh_expires_at: None,
                seller: Seller {
                    name: Some("Bánh Mì".into()),
                    granted_scopes: Some(vec!["s".into()]),
                    ..Seller::default()
                },
            },
        }
    }

    #[test]
    fn a_rescue_message_survives_a_round_trip() {
        let Ok(Message::Rescue(read)) = parse(&rescue().to_json()) else { panic!("expected a rescue") };
        let sent = rescue();
        assert_eq!((&read.key, &read.status, &read.open_id), (&sent.key, &sent.status, &sent.open_id));
        assert_eq!((&read.generation, &read.app_key), (&sent.generation, &sent.app_key));
        assert_eq!(read.sent.expose(), "TTR_sent");
        assert_eq!(read.access_token.unwrap().expose(), "TTP_old");
        assert_eq!(read.grant.access_token.expose(), "TTP_new");
        assert_eq!(read.grant.refresh_token.unwrap().expose(), "TTR_new");
        assert_eq!((read.grant.access_expires_at, read.grant.refresh_expires_at), (Some(UnixTime(1)), None));
        assert_eq!(read.grant.seller, sent.grant.seller);
    }

    #[test]
    fn a_rescue_message_of_the_version_before_names_no_generation() {
        let mut old: serde_json::Value = serde_json::from_str(&rescue().to_json()).unwrap();
        let fields = old["rescue"].as_object_mut().unwrap();
        fields.remove("authorization_id");
        fields.remove("app_key");
        let Ok(Message::Rescue(read)) = parse(&old.to_string()) else { panic!("expected a rescue") };
        assert_eq!((&read.generation, &read.app_key), (&Generation::Unknown, &None));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&read.to_json()).unwrap()["rescue"]
                .get("authorization_id"),
            None
        );
        let known = Rescue { generation: Generation::Known(Some("g".into())), ..rescue() };
        let Ok(Message::Rescue(read)) = parse(&known.to_json()) else { panic!("expected a rescue") };
        assert_eq!(read.generation, known.generation);
    }

    #[test]
    fn a_work_message_survives_a_round_trip_and_holds_only_keys() {
        let key = IntegrationKey { team_id: "1".into(), integration_id: "7".into() };
        let with_app = WorkKey { key: key.clone(), app_key: Some("second".into()) };
        let integrations = vec![WorkKey { key, app_key: None }, with_app];
        let work =
            Work { force: true, run_started_at: UnixTime(9), proved: None, only_one_of: None, integrations };
        let text = work.to_json();
        assert_eq!(
            text,
            r#"{"kind":"work","work":{"force":true,"integrations":[{"integration_id":"7","team_id":"1"},{"app_key":"second","integration_id":"7","team_id":"1"}],"run_started_at":9}}"#
        );
        assert!(matches!(parse(&text), Ok(Message::Work(read)) if read == work));
    }

    #[test]
    fn the_error_for_a_bad_message_names_the_key_and_never_quotes_the_message() {
        let malformed = rescue().to_json().replace("\"sent\"", "\"sant\"");
        let error = parse(&malformed).unwrap_err();
        assert_eq!(error.to_string(), "not a message from this function: it has unexpected keys or types");
        assert_eq!(key_of(&malformed).unwrap().integration_id, "7");
        assert_eq!(
            parse("TTR_x").unwrap_err().to_string(),
            "not a message from this function: it is not JSON"
        );
        assert!(key_of("TTR_x").is_none());
        assert!(!format!("{:?}", rescue()).contains("TT"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = (parse(&text), key_of(&text));
        }
    }
}
