//! The link with which a seller connects one integration: TikTok's consent page, with a signed `state`. TikTok sends the state
//! back with the auth code, and the signature proves which integration the code is for.
//!
//! A state is a bearer secret for one row. Before its signature is verified, only one part of it is used: the name of the app
//! whose secret must have signed it.

use crate::domain::{
    integration::{IntegrationKey, UnixTime},
    secret::{AppCredentials, AppSecret},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt;
use url::Url;

/// The only version of the payload.
const VERSION: u8 = 1;
/// Derives the signing key, so that no other use of the app's secret can produce a state.
const KEY_CONTEXT: &[u8] = b"tiktok-token-refresh/connect-link/v1";
/// The longest state, in bytes: a longer URL does not get through every browser, mail program and proxy.
const MAX_STATE: usize = 6 * 1024;

/// The market of an app, which decides on the host of TikTok's consent page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Market {
    /// All markets except the United States.
    #[default]
    Global,
    /// The United States.
    Us,
}

impl Market {
    /// Parses `global` or `us`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "global" => Some(Self::Global),
            "us" => Some(Self::Us),
            _ => None,
        }
    }

    fn consent_page(self) -> &'static str {
        match self {
            Self::Global => "https://services.tiktokshop.com/open/authorize",
            Self::Us => "https://services.us.tiktokshop.com/open/authorize",
        }
    }
}

/// An app as a service in TikTok's Partner Center.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The number on the app's page in Partner Center, which is not the app key.
    pub service_id: String,
    /// The app's market.
    pub market: Market,
}

/// The integration and the app that a state is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTarget {
    /// The integration that the seller connects.
    pub key: IntegrationKey,
    /// The app that the seller authorizes.
    pub app_key: String,
    /// When the link stops working.
    pub expires_at: UnixTime,
}

/// The signed part of a state.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    v: u8,
    team: String,
    integration: String,
    app: String,
    expires: i64,
    /// Random, so that two states for the same target differ.
    nonce: String,
}

/// Why a state is not accepted. No variant contains the state's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The text is not a state.
    #[error("expected the state of a link from connect_link")]
    Malformed,
    /// The app's secret did not sign it.
    #[error(
        "the signature is wrong: the state was changed, or the app's secret was replaced more than once since the link was made"
    )]
    Forged,
    /// The link has expired.
    #[error("the link has expired: make a new one with connect_link")]
    Expired,
}

/// Makes the state for a target, signed with the app's secret. `None` if the ids are too long for a link.
pub fn sign(target: &LinkTarget, secret: &AppSecret, nonce: &str) -> Option<String> {
    let payload = Payload {
        v: VERSION,
        team: target.key.team_id.clone(),
        integration: target.key.integration_id.clone(),
        app: target.app_key.clone(),
        expires: target.expires_at.0,
        nonce: nonce.to_owned(),
    };
    let payload = serde_json::to_vec(&payload).ok()?;
    let signature = mac(secret, &payload).finalize().into_bytes();
    let state = format!("{}.{}", URL_SAFE_NO_PAD.encode(&payload), URL_SAFE_NO_PAD.encode(signature));
    (state.len() <= MAX_STATE).then_some(state)
}

/// The URL of TikTok's consent page for a target, or of `consent_page` if it is given. `None` if the ids are too long for a link.
pub fn url(
    target: &LinkTarget,
    app: &AppCredentials,
    service: &Service,
    consent_page: Option<&Url>,
    nonce: &str,
) -> Option<String> {
    let state = sign(target, &app.app_secret, nonce)?;
    let page = consent_page.map_or(service.market.consent_page(), Url::as_str);
    let query = [("service_id", service.service_id.as_str()), ("state", &state)];
    Url::parse_with_params(page, query).ok().map(Into::into)
}

/// A state as it was received. Only [`verify`](Self::verify) gives access to its target.
#[derive(Clone)]
pub struct ConnectState {
    payload: Vec<u8>,
    signature: Vec<u8>,
    target: LinkTarget,
}

impl ConnectState {
    /// Parses a state's text.
    ///
    /// # Errors
    /// [`StateError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, StateError> {
        if text.len() > MAX_STATE {
            return Err(StateError::Malformed);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| StateError::Malformed);
        let (payload, signature) = text.split_once('.').ok_or(StateError::Malformed)?;
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        match serde_json::from_slice(&payload) {
            Ok(Payload { v: VERSION, team, integration, app, expires, nonce: _ }) => {
                let key = IntegrationKey { team_id: team, integration_id: integration };
                let target = LinkTarget { key, app_key: app, expires_at: UnixTime(expires) };
                Ok(Self { payload, signature, target })
            }
            _ => Err(StateError::Malformed),
        }
    }

    /// The app whose secret must have signed this.
    pub fn app_key(&self) -> &str {
        &self.target.app_key
    }

    /// The state's target, if `secret` signed the state and it has not expired. Compares the signature in constant time.
    ///
    /// # Errors
    /// [`StateError::Forged`], or [`StateError::Expired`] for a state with a good signature.
    pub fn verify(&self, secret: &AppSecret, now: DateTime<Utc>) -> Result<&LinkTarget, StateError> {
        mac(secret, &self.payload).verify_slice(&self.signature).map_err(|_| StateError::Forged)?;
        if self.target.expires_at.has_passed(now) { Err(StateError::Expired) } else { Ok(&self.target) }
    }
}

impl fmt::Debug for ConnectState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectState(hidden)")
    }
}

impl PartialEq for ConnectState {
    fn eq(&self, other: &Self) -> bool {
        (&self.payload, &self.signature) == (&other.payload, &other.signature)
    }
}

impl Eq for ConnectState {}

/// The MAC of a payload, with the key that is derived from the app's secret.
fn mac(secret: &AppSecret, payload: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let with_key = |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    let key = with_key(secret.expose().as_bytes()).chain_update(KEY_CONTEXT).finalize().into_bytes();
    with_key(&key).chain_update(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, sample::Index};

    const NOW: i64 = 1_795_399_200;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(NOW, 0).unwrap()
    }

    fn secret(text: &str) -> AppSecret {
        text.to_owned().into()
    }

    fn target(team: &str, integration: &str) -> LinkTarget {
        let key = IntegrationKey { team_id: team.into(), integration_id: integration.into() };
        LinkTarget { key, app_key: "29a39d".into(), expires_at: UnixTime(NOW + 60) }
    }

    fn verified(text: &str, with: &str, now: DateTime<Utc>) -> Result<LinkTarget, StateError> {
        ConnectState::parse(text)?.verify(&secret(with), now).cloned()
    }

    #[test]
    fn a_state_has_the_documented_form() {
        let state = sign(&target("1", "7"), &secret("e59af819cc"), "n").unwrap();
        let (payload, signature) = state.split_once('.').unwrap();
        assert_eq!(
            String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap(),
            r#"{"v":1,"team":"1","integration":"7","app":"29a39d","expires":1795399260,"nonce":"n"}"#
        );
        // By Python's hmac: key = hmac(b"e59af819cc", context), then hmac(key, payload).
        assert_eq!(
            hex::encode(URL_SAFE_NO_PAD.decode(signature).unwrap()),
            "1996910180d130056cd83b0033a942c9258ff25ddcac17c4435c3decf9037f81"
        );
    }

    #[test]
    fn a_link_leads_to_the_markets_consent_page() {
        let app =
            AppCredentials { app_key: "29a39d".into(), app_secret: secret("e59af819cc"), service: None };
        let of = |market, page: Option<&Url>| {
            let service = Service { service_id: "7431".into(), market };
            let url = url(&target("1", "7"), &app, &service, page, "n").unwrap();
            url.split_once("&state=").unwrap().0.to_owned()
        };
        assert_eq!(
            of(Market::Global, None),
            "https://services.tiktokshop.com/open/authorize?service_id=7431"
        );
        assert_eq!(of(Market::Us, None), "https://services.us.tiktokshop.com/open/authorize?service_id=7431");
        let local = Url::parse("http://127.0.0.1:8123/open/authorize").unwrap();
        assert_eq!(of(Market::Us, Some(&local)), "http://127.0.0.1:8123/open/authorize?service_id=7431");
    }

    #[test]
    fn a_state_works_until_it_expires_any_number_of_times() {
        let state = sign(&target("1", "7"), &secret("s"), "n").unwrap();
        for second in [0, 0, 59] {
            let at = now() + chrono::TimeDelta::seconds(second);
            assert_eq!(verified(&state, "s", at), Ok(target("1", "7")));
        }
        let late = now() + chrono::TimeDelta::seconds(60);
        assert_eq!(verified(&state, "s", late), Err(StateError::Expired));
        assert_eq!(
            verified(&state, "another", late),
            Err(StateError::Forged),
            "an expiry is told to the holder alone"
        );
    }

    #[test]
    fn the_app_secret_itself_is_not_the_signing_key() {
        let payload =
            br#"{"v":1,"team":"1","integration":"7","app":"29a39d","expires":1795399260,"nonce":"n"}"#;
        let mac = Hmac::<Sha256>::new_from_slice(b"s").unwrap().chain_update(payload).finalize().into_bytes();
        let state = format!("{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(mac));
        assert_eq!(verified(&state, "s", now()), Err(StateError::Forged));
    }

    #[test]
    fn what_is_no_state_is_malformed() {
        let good = sign(&target("1", "7"), &secret("s"), "n").unwrap();
        let (payload, signature) = good.split_once('.').unwrap();
        let other = |json: &str| format!("{}.{signature}", URL_SAFE_NO_PAD.encode(json));
        for text in [
            String::new(),
            ".".into(),
            payload.into(),
            format!("{good}="),
            format!("{payload}=.{signature}"),
            format!("{good}.{signature}"),
            format!(" {good}"),
            "x".repeat(MAX_STATE + 1),
            other("[]"),
            other(r#"{"v":2,"team":"1","integration":"7","app":"a","expires":1,"nonce":"n"}"#),
            other(r#"{"v":1,"team":"1","integration":"7","app":"a","expires":1}"#),
            other(r#"{"v":1,"team":1,"integration":"7","app":"a","expires":1,"nonce":"n"}"#),
            other(r#"{"v":1,"team":"1","team":"2","integration":"7","app":"a","expires":1,"nonce":"n"}"#),
        ] {
            assert_eq!(ConnectState::parse(&text), Err(StateError::Malformed), "{text}");
        }
    }

    #[test]
    fn ids_that_are_too_long_for_a_link_make_none() {
        assert!(sign(&target(&"x".repeat(2048), &"y".repeat(1024)), &secret("s"), "n").is_some());
        assert_eq!(sign(&target(&"\u{1}".repeat(2048), "7"), &secret("s"), "n"), None);
    }

    #[test]
    fn debug_output_never_shows_a_state() {
        let state = sign(&target("1", "7"), &secret("s"), "n").unwrap();
        assert_eq!(format!("{:?}", ConnectState::parse(&state).unwrap()), "ConnectState(hidden)");
    }

    proptest! {
        #[test]
        fn a_state_comes_back_as_it_was_signed(
            team in ".{1,40}", integration in ".{1,40}", app in ".{0,20}", with in ".{0,40}", life in 1i64..3_000_000,
        ) {
            let key = IntegrationKey { team_id: team, integration_id: integration };
            let target = LinkTarget { key, app_key: app, expires_at: UnixTime(NOW + life) };
            let state = sign(&target, &secret(&with), "n").unwrap();
            prop_assert_eq!(verified(&state, &with, now()), Ok(target));
        }

        #[test]
        fn no_changed_character_is_accepted(at in any::<Index>(), by in any::<char>()) {
            let state = sign(&target("1", "7"), &secret("s"), "n").unwrap();
            let mut chars: Vec<char> = state.chars().collect();
            let at = at.index(chars.len());
            prop_assume!(chars[at] != by);
            chars[at] = by;
            prop_assert!(verified(&chars.into_iter().collect::<String>(), "s", now()).is_err());
        }

        #[test]
        fn no_cut_or_lengthened_state_is_accepted(at in any::<Index>(), more in "[A-Za-z0-9_.=-]{1,8}") {
            let state = sign(&target("1", "7"), &secret("s"), "n").unwrap();
            let at = at.index(state.len());
            prop_assert!(verified(&state[..at], "s", now()).is_err());
            let longer = format!("{}{more}{}", &state[..at], &state[at..]);
            prop_assert!(verified(&longer, "s", now()).is_err());
        }

        #[test]
        fn no_changed_byte_of_the_payload_or_the_signature_is_accepted(at in any::<Index>(), by in 1u8..) {
            let state = sign(&target("1", "7"), &secret("s"), "n").unwrap();
            let (payload, signature) = state.split_once('.').unwrap();
            let mut bytes = [payload, signature].map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
            let at = at.index(bytes[0].len() + bytes[1].len());
            let part = usize::from(at >= bytes[0].len());
            let at = at - part * bytes[0].len();
            bytes[part][at] ^= by;
            let changed = bytes.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            prop_assert!(verified(&changed, "s", now()).is_err());
        }

        #[test]
        fn a_signature_is_good_for_its_own_payload_alone(team in ".{1,9}", life in -9i64..9) {
            let [one, mut other] = [target("1", "7"), target("1", "7")];
            other.key.team_id = team;
            other.expires_at = UnixTime(other.expires_at.0 + life);
            prop_assume!(one != other);
            let [one, other] = [one, other].map(|target| sign(&target, &secret("s"), "n").unwrap());
            let swapped = format!("{}.{}", other.split_once('.').unwrap().0, one.split_once('.').unwrap().1);
            prop_assert_eq!(verified(&swapped, "s", now()), Err(StateError::Forged));
        }

        #[test]
        fn another_secret_accepts_nothing(with in ".{0,20}") {
            // HMAC pads a short key with zeros.
            prop_assume!(with.trim_end_matches('\0') != "s");
            let state = sign(&target("1", "7"), &secret("s"), "n").unwrap();
            prop_assert_eq!(verified(&state, &with, now()), Err(StateError::Forged));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            let _ = ConnectState::parse(&text);
        }
    }
}
