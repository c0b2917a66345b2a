//! The client for TikTok Shop's authorization host and open API. TikTok takes credentials in the URL's query, so no URL leaves
//! this module, not even in an error or a log.

mod api_error;
mod error;
mod rate_limiter;
mod response;
mod sign;

pub use crate::domain::shop::Shop;
pub use api_error::ApiError;
pub use error::CallError;
pub use rate_limiter::RateLimiter;
pub use response::parse;
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

/// The maximum size of a response's body, in bytes. Real ones have about 1 KB.
const MAX_BODY: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than the idle timeout of common load balancers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
const SHOPS_PATH: &str = "/authorization/202309/shops";

/// A client for TikTok Shop's authorization host and open API.
#[derive(Clone, Debug)]
pub struct TikTok {
    /// The HTTP client for both hosts, built on first use. Building it reads the system's root certificates, which takes most
    /// of a cold start, and many invocations do not call TikTok.
    http: Arc<OnceCell<Client>>,
    auth_url: Url,
    api_url: Url,
    timeout: Duration,
}

impl TikTok {
    /// A client whose calls take at most `timeout` each, from connecting to the last byte of the response.
    pub fn new(auth_url: &Url, api_url: &Url, timeout: Duration) -> Self {
        Self { http: Arc::default(), auth_url: auth_url.clone(), api_url: api_url.clone(), timeout }
    }

    /// The HTTP client, built on the first call: building it takes 4.9 ms of CPU, which is 68 ms at the 7 % of a CPU that a
    /// function of 128 MB gets, and an invocation that only reads the table never needs it.
    async fn http(&self) -> Result<&Client, CallError> {
        let make = async || {
            // A second safeguard: the settings already allow plain HTTP only for loopback URLs.
            let is_local = is_loopback(&self.auth_url) || is_loopback(&self.api_url);
            client(!is_local, self.timeout)
        };
        self.http.get_or_try_init(make).await
    }

    /// Redeems a refresh token for a new token pair: `GET /api/v2/token/refresh`. TikTok answers a POST with 404.
    ///
    /// # Errors
    /// A classified [`CallError`].
    pub async fn refresh(&self, app: &AppCredentials, sent: &RefreshToken) -> Result<Grant, CallError> {
        self.token("refresh", app, [("refresh_token", sent.expose()), ("grant_type", "refresh_token")]).await
    }

    /// Exchanges an auth code for a seller's first token pair: `GET /api/v2/token/get`.
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
        let response = send(self.http().await?.get(url).query(&query)).await?;
        parse(response.status, response.retry_after, &response.body)
            .map_err(|error| error.cleaned(&[app_secret, secret.1]))
    }

    /// Returns the shops that an authorization covers: `GET /authorization/202309/shops`, signed at `now`. A success shows that
    /// the access token works.
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
        let shops = match send(request).await {
            Ok(response) => response::parse_shops(response.status, response.retry_after, &response.body),
            Err(error) => Err(error),
        };
        shops.map_err(|error| ApiError::of(error.cleaned(&[app.app_secret.expose(), token.expose()])))
    }
}

/// Builds the HTTP client. It follows no redirect, which would send the secrets to another origin, and never retries by
/// itself, which could redeem a token twice.
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
            message: format!("cannot build the HTTP client ({})", root_cause(&error.without_url())),
        })
}

/// A response with its whole body.
struct RawResponse {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

/// Sends a request and reads the response, of at most [`MAX_BODY`] bytes.
async fn send(request: RequestBuilder) -> Result<RawResponse, CallError> {
    let mut response = request.send().await.map_err(transport_error)?;
    let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(transport_error)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(CallError::Ambiguous { message: format!("the response exceeds {MAX_BODY} bytes") });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(RawResponse { status, retry_after, body })
}

fn transport_error(error: reqwest::Error) -> CallError {
    let error = error.without_url();
    if error.is_connect() {
        CallError::NotConnected { message: root_cause(&error) }
    } else if error.is_timeout() {
        CallError::Ambiguous { message: "timeout".into() }
    } else {
        CallError::Ambiguous { message: root_cause(&error) }
    }
}

/// `Retry-After` in seconds. The usual backoff applies if it is a date, which APIs rarely send.
fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(text.trim().parse().ok()?))
}
