//! TikTok Shop's authorization API. The credentials travel in the URL (the provider's choice), so no URL leaves
//! this module: not in an error, not in a log.

mod api_error;
mod error;
mod rate_limiter;
mod response;
mod sign;

pub use api_error::ApiError;
pub use error::CallError;
pub use rate_limiter::RateLimiter;
pub use response::{Shop, parse};
pub use sign::sign;

use crate::domain::{
    grant::Grant,
    loopback::is_loopback,
    root_cause::root_cause,
    secret::{AccessToken, AppCredentials, AuthCode, RefreshToken},
};
use chrono::{DateTime, Utc};
use reqwest::{Client, RequestBuilder, header, redirect};
use std::{sync::Arc, time::Duration};
use tokio::sync::OnceCell;
use url::Url;

/// The largest answer that is read, in bytes. Real ones have about 1 KB.
const MAX_BODY: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than the idle time after which load balancers close a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// No `Retry-After` is followed for longer.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);
const SHOPS_PATH: &str = "/authorization/202309/shops";

/// A client of TikTok Shop's authorization host and open API.
#[derive(Clone, Debug)]
pub struct TikTok {
    /// One for both hosts, made when it is first needed: making it reads the machine's root certificates, which is most
    /// of a cold start, and many an invocation asks TikTok nothing.
    http: Arc<OnceCell<Client>>,
    auth_url: Url,
    api_url: Url,
    timeout: Duration,
}

impl TikTok {
    /// A client whose every call takes at most `timeout`, from connecting to the last byte.
    pub fn new(auth_url: &Url, api_url: &Url, timeout: Duration) -> Self {
        Self { http: Arc::default(), auth_url: auth_url.clone(), api_url: api_url.clone(), timeout }
    }

    /// Does ahead what the first call would have to wait for. A failure is left to that call to tell.
    pub async fn make_ready(&self) {
        self.http().await.ok();
    }

    async fn http(&self) -> Result<&Client, CallError> {
        let make = async || {
            // A second lock: the settings let plain HTTP through to this machine alone.
            let is_local = is_loopback(&self.auth_url) || is_loopback(&self.api_url);
            client(!is_local, self.timeout)
        };
        self.http.get_or_try_init(make).await
    }

    /// Redeems `sent` for a new pair: `GET /api/v2/token/refresh`. A POST would be answered with 404.
    ///
    /// # Errors
    /// A classified [`CallError`].
    pub async fn refresh(&self, app: &AppCredentials, sent: &RefreshToken) -> Result<Grant, CallError> {
        self.token("refresh", app, [("refresh_token", sent.expose()), ("grant_type", "refresh_token")]).await
    }

    /// Exchanges a seller's auth code for the first pair: `GET /api/v2/token/get`.
    ///
    /// # Errors
    /// A classified [`CallError`].
    pub async fn exchange(&self, app: &AppCredentials, code: &AuthCode) -> Result<Grant, CallError> {
        self.token("get", app, [("auth_code", code.expose()), ("grant_type", "authorized_code")]).await
    }

    async fn token(
        &self,
        method: &str,
        app: &AppCredentials,
        [secret, grant_type]: [(&str, &str); 2],
    ) -> Result<Grant, CallError> {
        let mut url = self.auth_url.clone();
        url.set_path(&format!("/api/v2/token/{method}"));
        let app_secret = app.app_secret.expose();
        let query = [("app_key", app.app_key.as_str()), ("app_secret", app_secret), secret, grant_type];
        let answer = exchange(self.http().await?.get(url).query(&query)).await?;
        parse(answer.status, answer.retry_after, &answer.body)
            .map_err(|error| error.cleaned(&[app_secret, secret.1]))
    }

    /// The shops that an authorization covers, which also shows that its access token works:
    /// `GET /authorization/202309/shops`, signed at `now`.
    ///
    /// # Errors
    /// A classified [`ApiError`].
    pub async fn get_authorized_shops(
        &self,
        app: &AppCredentials,
        token: &AccessToken,
        now: DateTime<Utc>,
    ) -> Result<Vec<Shop>, ApiError> {
        let timestamp = now.timestamp().to_string();
        let mut query = vec![("app_key", app.app_key.as_str()), ("timestamp", timestamp.as_str())];
        let signature = sign(&app.app_secret, SHOPS_PATH, &query, b"");
        query.push(("sign", &signature));
        let mut url = self.api_url.clone();
        url.set_path(SHOPS_PATH);
        let request = self
            .http()
            .await
            .map_err(ApiError::of)?
            .get(url)
            .query(&query)
            .header("x-tts-access-token", token.expose())
            .header(header::CONTENT_TYPE, "application/json");
        let shops = match exchange(request).await {
            Ok(answer) => response::parse_shops(answer.status, answer.retry_after, &answer.body),
            Err(error) => Err(error),
        };
        shops.map_err(|error| ApiError::of(error.cleaned(&[app.app_secret.expose(), token.expose()])))
    }
}

/// A redirect would hand the secrets to another origin; a hidden retry would redeem a token twice.
fn client(https_only: bool, timeout: Duration) -> Result<Client, CallError> {
    Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .https_only(https_only)
        .timeout(timeout)
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build()
        .map_err(|error| CallError::NotConnected {
            message: format!("the HTTP client could not be made ({})", root_cause(&error.without_url())),
        })
}

/// A whole response, its body bounded.
struct RawResponse {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

async fn exchange(request: RequestBuilder) -> Result<RawResponse, CallError> {
    let mut response = request.send().await.map_err(unanswered)?;
    let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(CallError::Ambiguous { message: format!("an answer of more than {MAX_BODY} bytes") });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(RawResponse { status, retry_after, body })
}

fn unanswered(error: reqwest::Error) -> CallError {
    let error = error.without_url();
    if error.is_connect() {
        CallError::NotConnected { message: root_cause(&error) }
    } else if error.is_timeout() {
        CallError::Ambiguous { message: "time-out".into() }
    } else {
        CallError::Ambiguous { message: root_cause(&error) }
    }
}

/// `Retry-After` in seconds, as APIs write it; a date there is not read, and the usual back-off serves.
fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(text.trim().parse().ok()?).min(MAX_RETRY_AFTER))
}
