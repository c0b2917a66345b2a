//! Types for tokens and secrets, which nobody can print, log, compare or serialize by accident. The only access to the text
//! is [`expose`](RefreshToken::expose), which stands out in review.

use crate::domain::{blanks::without_blanks, connect_link::Service};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

macro_rules! secret_text {
    ($($(#[$doc:meta])+ $name:ident;)+) => {$(
        $(#[$doc])+
        #[derive(Clone)]
        pub struct $name(SecretString);

        impl $name {
            /// The text itself. It must never reach a log, an error or a metric.
            pub fn expose(&self) -> &str {
                self.0.expose_secret()
            }

            /// Whether both hold the same text.
            pub fn is_same_as(&self, other: &Self) -> bool {
                self.expose() == other.expose()
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(hidden)"))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(Self::from)
            }
        }
    )+};
}

secret_text! {
    /// A TikTok Shop access token.
    AccessToken;
    /// A TikTok Shop refresh token.
    RefreshToken;
    /// A TikTok Shop app's secret.
    AppSecret;
    /// A one-time authorization code, which an app exchanges for a seller's first token pair.
    AuthCode;
}

/// The credentials of one TikTok Shop app.
#[derive(Clone, Debug)]
pub struct AppCredentials {
    /// The app's public identifier.
    pub app_key: String,
    /// The app's secret.
    pub app_secret: AppSecret,
    /// What a link for sellers needs; `None` if the secret does not have it.
    pub service: Option<Service>,
}

impl AppCredentials {
    /// The credentials without the blanks, line breaks and byte order marks that pasting leaves around key and secret. Also
    /// returns which of the two had any.
    #[must_use]
    pub fn trimmed(&self) -> (Self, Vec<&'static str>) {
        let (key, secret) = (without_blanks(&self.app_key), without_blanks(self.app_secret.expose()));
        let had_blanks = [
            ("the app key", key.len() < self.app_key.len()),
            ("the app secret", secret.len() < self.app_secret.expose().len()),
        ];
        let had_blanks = had_blanks.into_iter().filter_map(|(what, had)| had.then_some(what)).collect();
        let app_secret = secret.to_owned().into();
        (Self { app_key: key.to_owned(), app_secret, service: self.service.clone() }, had_blanks)
    }

    /// Identifies these credentials without revealing the secret.
    pub fn fingerprint(&self) -> Fingerprint {
        let digest = Sha256::new().chain_update(&self.app_key).chain_update("\n");
        Fingerprint::of(digest.chain_update(self.app_secret.expose()))
    }
}

/// The fingerprint of an app's credentials: SHA-256 of app key, a line feed and app secret; the first 12 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    fn of(digest: Sha256) -> Self {
        let mut text = hex::encode(digest.finalize());
        text.truncate(12);
        Self(text)
    }
}

/// The configured apps; the first is the default.
#[derive(Debug, Default)]
pub struct Apps(pub Vec<Arc<AppCredentials>>);

impl Apps {
    /// The credentials of `app_key`, or of the default app for `None`.
    pub fn get(&self, app_key: Option<&str>) -> Option<&Arc<AppCredentials>> {
        match app_key {
            None => self.0.first(),
            Some(key) => self.0.iter().find(|app| app.app_key == key),
        }
    }

    /// The same apps, with newer credentials for the app with the same key, or else for the default app.
    #[must_use]
    pub fn with(&self, newer: &Arc<AppCredentials>) -> Self {
        let mut apps = self.0.clone();
        let at = apps.iter().position(|app| app.app_key == newer.app_key).unwrap_or_default();
        if let Some(app) = apps.get_mut(at) {
            app.clone_from(newer);
        }
        Self(apps)
    }

    /// The fingerprint of the credentials with which a row is tried. If the row names no app, it covers the credentials of all
    /// apps, in any order. `None` if the app is unknown.
    pub fn fingerprint(&self, app_key: Option<&str>) -> Option<Fingerprint> {
        if app_key.is_some() || self.0.len() <= 1 {
            return self.get(app_key).map(|app| app.fingerprint());
        }
        let mut all: Vec<_> = self.0.iter().map(|app| app.fingerprint().0).collect();
        all.sort_unstable();
        Some(Fingerprint::of(Sha256::new().chain_update(all.join("\n"))))
    }
}

/// The source of the app credentials.
#[derive(Clone, Debug)]
pub enum CredentialsFrom {
    /// `APP_CREDENTIALS_SECRET_ID`: a Secrets Manager secret, by name or ARN.
    Secret(String),
    /// `TIKTOK_SHOP_APP_KEY` and `TIKTOK_SHOP_APP_SECRET`, for local runs.
    Environment(AppCredentials),
}

impl AuthCode {
    /// The code's SHA-256, in hex: recognizes the same code again without revealing it.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.expose()))
    }
}

impl AccessToken {
    /// The token's SHA-256: recognizes the same token again without revealing it.
    pub fn sha256(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.expose()).into())
    }
}

/// The SHA-256 of an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Reads 64 hex digits of either case.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).ok()?;
        Some(Self(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_around_key_and_secret_are_removed_and_told() {
        let trimmed = |key: &str, secret: &str| {
            let app =
                AppCredentials { app_key: key.into(), app_secret: secret.to_owned().into(), service: None };
            let (app, had_blanks) = app.trimmed();
            assert_eq!((app.app_key.as_str(), app.app_secret.expose()), ("29a39d", "e59 af819cc"));
            had_blanks
        };
        assert!(trimmed("29a39d", "e59 af819cc").is_empty(), "a blank inside stays");
        assert_eq!(trimmed("29a39d\r\n", "e59 af819cc"), ["the app key"]);
        assert_eq!(trimmed("29a39d", "\u{feff}e59 af819cc"), ["the app secret"]);
        assert_eq!(trimmed("\t29a39d", " \u{a0}e59 af819cc\n\n"), ["the app key", "the app secret"]);
    }

    #[test]
    fn a_fingerprint_names_key_and_secret_together() {
        let app = |key: &str, secret: &str| AppCredentials {
            app_key: key.into(),
            app_secret: secret.to_owned().into(),
            service: None,
        };
        let fingerprint = app("29a39d", "e59af819cc").fingerprint();
        // printf '29a39d\ne59af819cc' | sha256sum
        assert_eq!(fingerprint.0, "a6ca50aa82b9");
        assert_ne!(fingerprint, app("29a39d", "another").fingerprint());
        assert_ne!(fingerprint, app("another", "e59af819cc").fingerprint());
    }

    #[test]
    fn a_row_without_an_app_depends_on_all_credentials_in_any_order() {
        let app = |key: &str, secret: &str| {
            Arc::new(AppCredentials {
                app_key: key.into(),
                app_secret: secret.to_owned().into(),
                service: None,
            })
        };
        let (a, b, repaired) = (app("a", "1"), app("b", "2"), app("a", "3"));
        let of = |apps: &[&Arc<AppCredentials>]| {
            Apps(apps.iter().map(|app| Arc::clone(app)).collect()).fingerprint(None)
        };
        assert_eq!(of(&[&a, &b]), of(&[&b, &a]));
        assert_ne!(of(&[&b, &a]), of(&[&b, &repaired]), "the repair of any app lifts its marks");
        assert_eq!(of(&[&a]), Some(a.fingerprint()));
        assert_eq!(Apps(vec![a.clone(), b.clone()]).fingerprint(Some("b")), Some(b.fingerprint()));
    }

    #[test]
    fn debug_output_never_shows_a_secret() {
        let app = AppCredentials {
            app_key: "29a39d".into(),
            app_secret: "e59af819cc".to_owned().into(),
            service: None,
        };
        let shown = format!("{app:?} {:?}", RefreshToken::from("TTR_1".to_owned()));
        assert_eq!(
            shown,
            r#"AppCredentials { app_key: "29a39d", app_secret: AppSecret(hidden), service: None } RefreshToken(hidden)"#
        );
    }
}
