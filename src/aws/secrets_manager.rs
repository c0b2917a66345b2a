//! The app credentials from Secrets Manager. A warm environment caches them for 5 minutes and reads them again when TikTok
//! refuses them.

use crate::{
    aws::AwsError,
    domain::{
        blanks::without_blanks,
        clock::Clock,
        connect_link::{Market, Service},
        secret::{AppCredentials, AppSecret, Apps, CredentialsFrom},
    },
};
use aws_sdk_secretsmanager::Client;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Mutex;
use tracing::{debug, warn};

/// How long the secret stays cached.
const SECRET_TTL: TimeDelta = TimeDelta::minutes(5);
/// How long the versions with which links are verified stay cached: strangers must not make the function read the secret.
const VERSIONS_TTL: TimeDelta = TimeDelta::seconds(30);
/// The version stages of a secret.
/// <https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html>
const CURRENT: &str = "AWSCURRENT";
const PENDING: &str = "AWSPENDING";
const PREVIOUS: &str = "AWSPREVIOUS";

/// Reads and caches the app credentials.
#[derive(Debug)]
pub struct Credentials {
    source: Source,
    clock: Clock,
    cache: Mutex<Option<Cached>>,
    versions: Mutex<Option<Versions>>,
}

#[derive(Debug)]
enum Source {
    Secret { client: Client, id: String },
    Environment(Arc<Apps>),
}

/// The current and the previous version of the secret, or why they could not be read.
#[derive(Debug)]
struct Versions {
    read: Result<Vec<Arc<Apps>>, CredentialsError>,
    read_at: DateTime<Utc>,
}

#[derive(Debug)]
struct Cached {
    apps: Arc<Apps>,
    read_at: DateTime<Utc>,
}

/// The app credentials cannot be read. No variant quotes the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The secret does not exist or has no value. Secrets Manager returns the same error for both.
    #[error(
        "the secret {id} does not exist or has no value: check APP_CREDENTIALS_SECRET_ID and AWS_REGION, or store the \
         app's key and secret in it"
    )]
    Missing {
        /// `APP_CREDENTIALS_SECRET_ID`.
        id: String,
    },
    /// The function's role may not read the secret.
    #[error(
        "access to the secret {id} is denied: allow secretsmanager:GetSecretValue on it, and kms:Decrypt on its key"
    )]
    Denied {
        /// `APP_CREDENTIALS_SECRET_ID`.
        id: String,
    },
    /// Secrets Manager sent no response or another error.
    #[error("the secret {id} could not be read: {cause}")]
    Unreadable {
        /// `APP_CREDENTIALS_SECRET_ID`.
        id: String,
        /// Secrets Manager's error code, or the root cause.
        cause: String,
    },
    /// The secret is malformed.
    #[error(
        "the secret {id} {problem}: expected {{\"app_key\":\"…\",\"app_secret\":\"…\"}} or \
         {{\"apps\":[{{\"app_key\":\"…\",\"app_secret\":\"…\"}},…]}}"
    )]
    Malformed {
        /// `APP_CREDENTIALS_SECRET_ID`.
        id: String,
        /// What is wrong with the secret.
        problem: &'static str,
    },
}

impl Credentials {
    /// Credentials from the source in the settings. Only a Secrets Manager source uses `client`.
    pub fn new(from: &CredentialsFrom, client: Client, clock: Clock) -> Self {
        let source = match from {
            CredentialsFrom::Secret(id) => Source::Secret { client, id: id.clone() },
            CredentialsFrom::Environment(app) => {
                let (app, had_blanks) = app.trimmed();
                warn_of_blanks("TIKTOK_SHOP_APP_KEY and TIKTOK_SHOP_APP_SECRET", &had_blanks);
                Source::Environment(Arc::new(Apps(vec![Arc::new(app)])))
            }
        };
        Self { source, clock, cache: Mutex::new(None), versions: Mutex::new(None) }
    }

    /// Returns the apps, which are cached for 5 minutes.
    ///
    /// # Errors
    /// [`CredentialsError`] if the secret is not cached and cannot be read.
    pub async fn apps(&self) -> Result<Arc<Apps>, CredentialsError> {
        let (client, id) = match &self.source {
            Source::Environment(apps) => return Ok(apps.clone()),
            Source::Secret { client, id } => (client, id),
        };
        let now = self.clock.now();
        // Held while reading, so that concurrent refreshes read the secret only once.
        let mut cache = self.cache.lock().await;
        match &*cache {
            Some(cached) if now - cached.read_at < SECRET_TTL => Ok(cached.apps.clone()),
            _ => {
                let apps = Arc::new(read(client, id, CURRENT).await?);
                *cache = Some(Cached { apps: apps.clone(), read_at: now });
                Ok(apps)
            }
        }
    }

    /// Reads the apps again, whatever their age.
    ///
    /// # Errors
    /// [`CredentialsError`] if they cannot be read.
    pub async fn read_again(&self) -> Result<Arc<Apps>, CredentialsError> {
        let (client, id) = match &self.source {
            Source::Environment(apps) => return Ok(apps.clone()),
            Source::Secret { client, id } => (client, id),
        };
        let apps = Arc::new(read(client, id, CURRENT).await?);
        *self.cache.lock().await = Some(Cached { apps: apps.clone(), read_at: self.clock.now() });
        Ok(apps)
    }

    /// Returns the versions of the secret with which a link may have been signed, the current one first, then the previous one.
    /// Reads the secret at most once in 30 seconds, and keeps a failure as long.
    ///
    /// # Errors
    /// [`CredentialsError`] if a version cannot be read. There may be no previous version.
    pub async fn versions(&self) -> Result<Vec<Arc<Apps>>, CredentialsError> {
        let (client, id) = match &self.source {
            Source::Environment(apps) => return Ok(vec![apps.clone()]),
            Source::Secret { client, id } => (client, id),
        };
        let now = self.clock.now();
        // Held while reading, so that concurrent requests read the secret only once.
        let mut versions = self.versions.lock().await;
        if let Some(cached) = versions.as_ref().filter(|cached| now - cached.read_at < VERSIONS_TTL) {
            return cached.read.clone();
        }
        let read = self.read_versions(client, id, now).await;
        *versions = Some(Versions { read: read.clone(), read_at: now });
        read
    }

    async fn read_versions(
        &self,
        client: &Client,
        id: &str,
        now: DateTime<Utc>,
    ) -> Result<Vec<Arc<Apps>>, CredentialsError> {
        let just_read = match &*self.cache.lock().await {
            Some(cached) if now - cached.read_at < VERSIONS_TTL => Some(cached.apps.clone()),
            _ => None,
        };
        let current = match just_read {
            Some(apps) => apps,
            None => self.read_again().await?,
        };
        match read(client, id, PREVIOUS).await {
            Ok(previous) => Ok(vec![current, Arc::new(previous)]),
            Err(error @ (CredentialsError::Missing { .. } | CredentialsError::Malformed { .. })) => {
                debug!("no {PREVIOUS} version of the secret: {error}");
                Ok(vec![current])
            }
            Err(error @ (CredentialsError::Denied { .. } | CredentialsError::Unreadable { .. })) => {
                Err(error)
            }
        }
    }

    /// Returns the other credentials in the secret for an app whose credentials TikTok `refused`. They come from the current
    /// version, read again, then the pending version of a rotation, then the previous version. Where `is_default`, nobody named
    /// the app, so the current version's default app is one of them, whatever its key.
    ///
    /// # Errors
    /// [`CredentialsError`] if the current version cannot be read. The other two versions are optional.
    pub async fn others(
        &self,
        refused: &AppCredentials,
        is_default: bool,
    ) -> Result<Vec<Arc<AppCredentials>>, CredentialsError> {
        let Source::Secret { client, id } = &self.source else { return Ok(Vec::new()) };
        let mut versions = vec![self.read_again().await?];
        for stage in [PENDING, PREVIOUS] {
            match read(client, id, stage).await {
                Ok(apps) => versions.push(Arc::new(apps)),
                Err(error) => debug!("no {stage} version of the secret: {error}"),
            }
        }
        let mut others: Vec<Arc<AppCredentials>> = Vec::new();
        let of_the_same_key = versions.iter().filter_map(|apps| apps.get(Some(&refused.app_key)));
        let default = versions.first().filter(|_| is_default).and_then(|apps| apps.get(None));
        for app in of_the_same_key.chain(default) {
            let is_same = |other: &AppCredentials| {
                other.app_key == app.app_key && other.app_secret.is_same_as(&app.app_secret)
            };
            if !is_same(refused) && !others.iter().any(|other| is_same(other)) {
                others.push(app.clone());
            }
        }
        Ok(others)
    }
}

async fn read(client: &Client, id: &str, stage: &str) -> Result<Apps, CredentialsError> {
    let get = client.get_secret_value().secret_id(id).version_stage(stage);
    let output = get.send().await.map_err(|error| read_error(AwsError::of(&error), id))?;
    let malformed = |problem| CredentialsError::Malformed { id: id.to_owned(), problem };
    let text = output.secret_string().ok_or_else(|| malformed("holds binary data"))?;
    let Parsed { apps, had_blanks, without_service } = parse(text).map_err(malformed)?;
    warn_of_blanks(id, &had_blanks);
    for app_key in without_service {
        warn!(
            app_key,
            "ignored the app's service_id and market, so no link can be made: expected a service_id of digits, and the \
             market \"global\" or \"us\""
        );
    }
    Ok(apps)
}

/// Says which parts of the credentials had blanks around them. TikTok would refuse them with these.
fn warn_of_blanks(source: &str, had_blanks: &[&str]) {
    if !had_blanks.is_empty() {
        let parts = had_blanks.join(", ");
        warn!(
            source,
            "ignored blanks, line breaks or a byte order mark around app credentials: around {parts}"
        );
    }
}

/// What a secret's text holds.
struct Parsed {
    apps: Apps,
    /// Which parts had blanks around them.
    had_blanks: Vec<&'static str>,
    /// The apps whose service cannot be read.
    without_service: Vec<String>,
}

/// The service of an app, if the secret has one.
fn service(id: Option<Value>, market: Option<Value>) -> Result<Option<Service>, ()> {
    let service_id = match id {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => without_blanks(&text).to_owned(),
        Some(id) => id.to_string(),
    };
    let market = match market {
        None | Some(Value::Null) => Market::default(),
        Some(market) => market.as_str().map(without_blanks).and_then(Market::parse).ok_or(())?,
    };
    let is_number = !service_id.is_empty() && service_id.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { Ok(Some(Service { service_id, market })) } else { Err(()) }
}

/// Parses the secret. A JSON parser's error could quote the secret, so the errors here are fixed texts. A service that cannot be
/// read is no error: the refreshes do not need it.
fn parse(text: &str) -> Result<Parsed, &'static str> {
    #[derive(Deserialize)]
    struct Entry {
        app_key: String,
        app_secret: AppSecret,
        service_id: Option<Value>,
        market: Option<Value>,
    }
    #[derive(Deserialize)]
    struct AppList {
        apps: Vec<Entry>,
    }
    let trimmed = without_blanks(text);
    let mut had_blanks = Vec::new();
    if trimmed.len() < text.len() {
        had_blanks.push("the JSON");
    }
    let Ok(json) = serde_json::from_str::<Value>(trimmed) else { return Err("is not JSON") };
    let apps = if json.get("apps").is_some() {
        AppList::deserialize(json)
            .map(|list| list.apps)
            .map_err(|_| "has an app without app_key or app_secret")?
    } else {
        let is_missing = ["app_key", "app_secret"].map(|key| json.get(key).and_then(Value::as_str).is_none());
        match is_missing {
            [true, true] => return Err("has neither app_key nor app_secret"),
            [true, false] => return Err("has no app_key"),
            [false, true] => return Err("has no app_secret"),
            [false, false] => vec![Entry::deserialize(json).map_err(|_| "is not an object of strings")?],
        }
    };
    if apps.is_empty() {
        return Err("has an empty list of apps");
    }
    let (mut credentials, mut without_service) = (Vec::new(), Vec::new());
    for Entry { app_key, app_secret, service_id, market } in apps {
        let service = service(service_id, market).unwrap_or_else(|()| {
            without_service.push(app_key.clone());
            None
        });
        let (app, parts) = AppCredentials { app_key, app_secret, service }.trimmed();
        if app.app_key.is_empty() || app.app_secret.expose().is_empty() {
            return Err("has an empty app_key or app_secret");
        }
        credentials.push(Arc::new(app));
        for part in parts {
            if !had_blanks.contains(&part) {
                had_blanks.push(part);
            }
        }
    }
    Ok(Parsed { apps: Apps(credentials), had_blanks, without_service })
}

fn read_error(error: AwsError, id: &str) -> CredentialsError {
    let id = id.to_owned();
    match error {
        AwsError::Code(code) => match code.as_str() {
            "ResourceNotFoundException" => CredentialsError::Missing { id },
            "AccessDeniedException" | "DecryptionFailure" => CredentialsError::Denied { id },
            _ => CredentialsError::Unreadable { id, cause: code },
        },
        AwsError::NoResponse(_) | AwsError::NoCredentials(_) => {
            CredentialsError::Unreadable { id, cause: error.to_string() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(text: &str) -> Apps {
        parse(text).map_err(|problem| panic!("{problem}")).unwrap().apps
    }

    #[test]
    fn each_app_may_have_a_service_and_a_market() {
        let service = |more: &str| {
            let text = format!(r#"{{"app_key":"a","app_secret":"s"{more}}}"#);
            apps(&text).get(None).unwrap().service.clone().map(|of| (of.service_id, of.market))
        };
        assert_eq!(service(""), None);
        assert_eq!(service(r#","service_id":null,"market":"us""#), None);
        let number = "7431862345987123456".to_owned();
        for id in ["7431862345987123456", r#""7431862345987123456""#, r#"" 7431862345987123456\n""#] {
            assert_eq!(service(&format!(r#","service_id":{id}"#)), Some((number.clone(), Market::Global)));
            let us = format!(r#","service_id":{id},"market":"us""#);
            assert_eq!(service(&us), Some((number.clone(), Market::Us)));
        }
    }

    #[test]
    fn a_service_that_cannot_be_read_is_told_and_costs_only_the_links() {
        for wrong in [
            r#""service_id":"app-7""#,
            r#""service_id":"""#,
            r#""service_id":-7"#,
            r#""service_id":1.5"#,
            r#""service_id":{}"#,
            r#""service_id":"7","market":"US""#,
            r#""service_id":"7","market":7"#,
        ] {
            let text = format!(r#"{{"app_key":"a","app_secret":"s",{wrong}}}"#);
            let parsed = parse(&text).map_err(|problem| panic!("{problem}")).unwrap();
            assert_eq!(parsed.without_service, ["a"], "{wrong}");
            assert_eq!(parsed.apps.get(Some("a")).unwrap().service, None);
        }
    }

    #[test]
    fn blanks_and_a_byte_order_mark_are_removed_and_told() {
        let parse = |text| parse(text).map_err(|problem| panic!("{problem}")).unwrap();
        let text = "\u{feff} {\"app_key\":\"a\\r\\n\",\"app_secret\":\"\\ufeffs \"}\n";
        let Parsed { apps, had_blanks, .. } = parse(text);
        let app = apps.get(Some("a")).unwrap();
        assert_eq!(app.app_secret.expose(), "s");
        assert_eq!(had_blanks, ["the JSON", "the app key", "the app secret"]);
        assert!(parse(r#"{"app_key":"a", "app_secret":"s"}"#).had_blanks.is_empty());
        let two =
            parse(r#"{"apps":[{"app_key":"a ","app_secret":"s "},{"app_key":"b ","app_secret":"t "}]}"#);
        assert_eq!(two.had_blanks, ["the app key", "the app secret"], "each is told once");
    }

    #[test]
    fn the_secret_holds_one_app_or_a_list_of_apps() {
        let one = apps(r#"{"app_key":"a","app_secret":"s"}"#);
        assert_eq!(one.get(None).unwrap().app_key, "a");
        let two = apps(r#"{"apps":[{"app_key":"a","app_secret":"s"},{"app_key":"b","app_secret":"t"}]}"#);
        assert_eq!(two.get(None).unwrap().app_key, "a");
        assert_eq!(two.get(Some("b")).unwrap().app_secret.expose(), "t");
        assert!(two.get(Some("c")).is_none());
    }

    #[test]
    fn the_error_for_a_malformed_secret_never_quotes_it() {
        for (text, problem) in [
            ("s3cr3t", "is not JSON"),
            ("{}", "has neither app_key nor app_secret"),
            (r#"{"app_key":"a"}"#, "has no app_secret"),
            (r#"{"app_secret":"s3cr3t"}"#, "has no app_key"),
            (r#"{"app_key":"a","app_secret":7}"#, "has no app_secret"),
            (r#"{"app_key":"a","app_secret":""}"#, "has an empty app_key or app_secret"),
            (r#"{"app_key":"a","app_secret":" \n"}"#, "has an empty app_key or app_secret"),
            (r#"{"apps":[]}"#, "has an empty list of apps"),
            (r#"{"apps":[{"app_key":"a"}]}"#, "has an app without app_key or app_secret"),
            ("[]", "has neither app_key nor app_secret"),
        ] {
            assert_eq!(parse(text).err(), Some(problem), "{text}");
        }
    }
}
