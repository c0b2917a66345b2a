//! A stand-in for TikTok Shop that behaves as documented: GET requests only, errors as a code with HTTP status 200,
//! absolute expiries and, optionally, single-use refresh tokens. Tests script its behaviour call by call.

use super::consent::{self, Registration};
use crate::{
    domain::{clock::Clock, secret::AppCredentials},
    tiktok::sign,
};
use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use futures_util::stream;
use governor::{DefaultDirectRateLimiter, Quota};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::net::TcpListener;

/// Where a POST with `open_id` tells the stand-in to reject a seller's present access tokens. Not a path of TikTok Shop's.
pub const REJECT_PATH: &str = "/local/reject-access-tokens";
/// Where a POST with `open_id` gives an auth code for a seller. Not a path of TikTok Shop's.
pub const CODES_PATH: &str = "/local/auth-codes";
/// Where a GET tells how many refresh calls there were so far. Not a path of TikTok Shop's.
pub const CALLS_PATH: &str = "/local/refresh-calls";
/// The lifetime of an access token.
pub const ACCESS_TOKEN_LIFE: TimeDelta = TimeDelta::days(7);
/// The lifetime of a refresh token.
pub const REFRESH_TOKEN_LIFE: TimeDelta = TimeDelta::days(365);

/// The stand-in's behaviour for one call.
#[derive(Clone, Debug, PartialEq)]
pub enum Behaviour {
    /// Behaves as documented.
    Normal,
    /// Responds with HTTP status 200 and an error code, without redeeming the token.
    Code(i64, &'static str),
    /// Responds with an HTTP status, a text body and `Retry-After` in seconds, without redeeming the token.
    Status(u16, &'static str, Option<u64>),
    /// Redeems the token, then responds with an HTTP status and HTML, as a gateway does that had no response in time.
    StatusAfterRedeeming(u16),
    /// Never responds, and does not redeem the token.
    Hang,
    /// Redeems the token, then closes the connection in the middle of the response.
    CutAfterRedeeming,
    /// Redeems the token, then responds with these bytes.
    Garbled(&'static str),
    /// Redeems the token, then responds with 1 MB of blanks.
    Huge,
    /// Redirects the client, and so its secrets, to this URL.
    Redirect(String),
    /// Redeems the token, then replaces these fields of `data`; `null` removes a field.
    With(Value),
    /// Redeems the token, then delays the response.
    Slow(Duration),
}

/// A token pair in plain text, which grants no access to anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The access token.
    pub access_token: String,
    /// The refresh token.
    pub refresh_token: String,
}

/// A stand-in for TikTok Shop's authorization API and Open API.
#[derive(Clone, Debug)]
pub struct TikTokStandIn {
    state: Arc<Mutex<Inner>>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Inner {
    apps: Vec<AppCredentials>,
    /// The app for which the consent page is served, if it is.
    registration: Option<Registration>,
    sellers: BTreeMap<String, Seller>,
    /// The seller of each auth code, and how its exchange is answered. A code works once.
    codes: HashMap<String, (String, Behaviour)>,
    /// The seller of each live refresh token.
    live: HashMap<String, String>,
    /// The seller of each live access token.
    access: HashMap<String, String>,
    keeps_access_tokens: bool,
    single_use: bool,
    latency: Duration,
    limit: Option<Limit>,
    default_behaviour: Option<Behaviour>,
    issued: u64,
    posts: u64,
    /// The HTTP status, code and message of the Open API's error, if it fails.
    open_api: Option<(u16, i64, &'static str)>,
    open_api_scripted: VecDeque<Behaviour>,
    open_api_calls: u64,
}

/// A limit on the requests per second.
#[derive(Debug)]
struct Limit {
    limiter: DefaultDirectRateLimiter,
    retry_after: u64,
    refused: u64,
}

#[derive(Debug, Default)]
struct Seller {
    name: String,
    /// The app that the seller authorized; `None` means every app.
    app_key: Option<String>,
    last: Option<Pair>,
    scripted: VecDeque<Behaviour>,
    calls: u64,
}

impl TikTokStandIn {
    /// Creates a stand-in with these apps.
    pub fn new(apps: Vec<AppCredentials>, clock: Clock) -> Self {
        Self { state: Arc::new(Mutex::new(Inner { apps, ..Inner::default() })), clock }
    }

    /// Serves until the process exits.
    ///
    /// # Errors
    /// The listener's I/O error.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        axum::serve(listener, Router::new().fallback(route).with_state(self)).await
    }

    /// Authorizes the app for a seller and returns the token pair.
    pub fn authorize(&self, open_id: &str, name: &str) -> Pair {
        let mut inner = self.lock();
        name.clone_into(&mut inner.sellers.entry(open_id.into()).or_default().name);
        inner.issue(open_id, true)
    }

    /// Authorizes the app for a seller and returns the auth code.
    pub fn auth_code(&self, open_id: &str, name: &str) -> String {
        self.auth_code_with(open_id, name, Behaviour::Normal)
    }

    /// As [`auth_code`](Self::auth_code), for an exchange that [`Behaviour::With`] changes the response of.
    pub fn auth_code_with(&self, open_id: &str, name: &str, behaviour: Behaviour) -> String {
        let code = format!("TTC_{}", uuid::Uuid::new_v4().simple());
        let mut inner = self.lock();
        name.clone_into(&mut inner.sellers.entry(open_id.into()).or_default().name);
        inner.codes.insert(code.clone(), (open_id.into(), behaviour));
        code
    }

    /// Registers a refresh token that an earlier process issued.
    pub fn adopt(&self, open_id: &str, name: &str, pair: &Pair) {
        let mut inner = self.lock();
        name.clone_into(&mut inner.sellers.entry(open_id.into()).or_default().name);
        inner.live.insert(pair.refresh_token.clone(), open_id.into());
        inner.access.insert(pair.access_token.clone(), open_id.into());
    }

    /// Binds a seller's authorization to one app: every other app's calls with its tokens are rejected.
    pub fn bind(&self, open_id: &str, app_key: &str) {
        self.lock().sellers.entry(open_id.into()).or_default().app_key = Some(app_key.into());
    }

    /// From now on an access token stays good when a new one is issued.
    pub fn keep_access_tokens(&self) {
        self.lock().keeps_access_tokens = true;
    }

    /// Ends a seller's access tokens, and nothing else.
    pub fn end_access(&self, open_id: &str) {
        self.lock().access.retain(|_, owner| owner != open_id);
    }

    /// Revokes a seller's authorization. Its refresh tokens are no longer found.
    pub fn revoke(&self, open_id: &str) {
        let mut inner = self.lock();
        inner.live.retain(|_, owner| owner != open_id);
        inner.access.retain(|_, owner| owner != open_id);
    }

    /// Makes refresh tokens single-use: each refresh issues a new one.
    pub fn single_use(&self) {
        self.lock().single_use = true;
    }

    /// Delays every response by `latency`.
    pub fn latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Answers refreshes beyond this rate with HTTP 429 and `Retry-After`, in seconds.
    pub fn limit(&self, per_second: NonZeroU32, retry_after: u64) {
        let limiter = DefaultDirectRateLimiter::direct(Quota::per_second(per_second));
        self.lock().limit = Some(Limit { limiter, retry_after, refused: 0 });
    }

    /// The number of refreshes beyond the limit.
    pub fn refused(&self) -> u64 {
        self.lock().limit.as_ref().map_or(0, |limit| limit.refused)
    }

    /// Sets the behaviour of all calls without a scripted one. `None` resets it.
    pub fn always(&self, behaviour: Option<Behaviour>) {
        self.lock().default_behaviour = behaviour;
    }

    /// Scripts the behaviour of the next calls with a seller's token, in this order.
    pub fn next(&self, open_id: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.lock().sellers.entry(open_id.into()).or_default().scripted.extend(behaviours);
    }

    /// Serves the consent page for this app.
    pub fn register(&self, registration: Registration) {
        self.lock().registration = Some(registration);
    }

    pub(super) fn registration(&self) -> Option<Registration> {
        self.lock().registration.clone()
    }

    /// The `open_id` and name of every known seller.
    pub(super) fn sellers(&self) -> Vec<(String, String)> {
        let inner = self.lock();
        let sellers = inner.sellers.iter().filter(|(open_id, _)| !open_id.is_empty());
        sellers.map(|(open_id, seller)| (open_id.clone(), seller.name.clone())).collect()
    }

    /// Replaces the apps, as when an app secret is rotated.
    pub fn set_apps(&self, apps: Vec<AppCredentials>) {
        self.lock().apps = apps;
    }

    /// The number of refresh calls with a seller's tokens.
    pub fn calls(&self, open_id: &str) -> u64 {
        self.lock().sellers.get(open_id).map_or(0, |seller| seller.calls)
    }

    /// The number of refresh calls.
    pub fn all_calls(&self) -> u64 {
        self.lock().sellers.values().map(|seller| seller.calls).sum()
    }

    /// Makes the Open API fail with this HTTP status, code and message. `None` resets it.
    pub fn open_api_answers(&self, error: Option<(u16, i64, &'static str)>) {
        self.lock().open_api = error;
    }

    /// Scripts the behaviour of the next Open API calls, in this order: a code, a status, no response, or a connection that
    /// is closed in the middle of the response.
    pub fn next_open_api(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.lock().open_api_scripted.extend(behaviours);
    }

    /// The number of Open API calls.
    pub fn open_api_calls(&self) -> u64 {
        self.lock().open_api_calls
    }

    /// The number of requests with a method other than GET.
    pub fn posts(&self) -> u64 {
        self.lock().posts
    }

    /// The last token pair issued to a seller.
    pub fn last_pair(&self, open_id: &str) -> Option<Pair> {
        self.lock().sellers.get(open_id).and_then(|seller| seller.last.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limit {
    /// The answer to a request beyond the limit.
    fn refuse(&mut self) -> Option<Behaviour> {
        self.limiter.check().err()?;
        self.refused += 1;
        Some(Behaviour::Status(429, "too many requests", Some(self.retry_after)))
    }
}

impl Inner {
    /// Issues the first pair of an authorization, to the app that exchanges the code.
    fn authorize(&mut self, open_id: &str, query: &HashMap<String, String>) -> Pair {
        if let Some(bound) = self.sellers.get_mut(open_id).and_then(|seller| seller.app_key.as_mut()) {
            bound.clone_from(query.get("app_key").unwrap_or(&String::new()));
        }
        self.issue(open_id, true)
    }

    /// Whether the seller's authorization is good for an app.
    fn belongs(&self, open_id: &str, app_key: &str) -> bool {
        let bound = self.sellers.get(open_id).and_then(|seller| seller.app_key.as_deref());
        bound.is_none_or(|bound| bound == app_key)
    }

    fn issue(&mut self, open_id: &str, new_refresh_token: bool) -> Pair {
        self.issued += 1;
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let old = self.sellers.get(open_id).and_then(|seller| seller.last.clone());
        let refresh_token = match old {
            Some(old) if !new_refresh_token => old.refresh_token,
            _ => format!("TTR_{}_{nonce}", self.issued),
        };
        let pair = Pair { access_token: format!("TTP_{}_{nonce}", self.issued), refresh_token };
        self.live.insert(pair.refresh_token.clone(), open_id.to_owned());
        if !self.keeps_access_tokens {
            self.access.retain(|_, owner| owner != open_id);
        }
        self.access.insert(pair.access_token.clone(), open_id.to_owned());
        self.sellers.entry(open_id.to_owned()).or_default().last = Some(pair.clone());
        pair
    }

    /// Redeems a live refresh token.
    fn redeem(&mut self, open_id: &str, refresh_token: &str) -> Pair {
        if self.single_use {
            self.live.remove(refresh_token);
            return self.issue(open_id, true);
        }
        let seller = self.sellers.entry(open_id.to_owned()).or_default();
        let access_token = String::new();
        seller.last = Some(Pair { access_token, refresh_token: refresh_token.to_owned() });
        self.issue(open_id, false)
    }
}

async fn route(
    State(tiktok): State<TikTokStandIn>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    match (&method, uri.path(), query.get("open_id")) {
        (&Method::POST, REJECT_PATH, Some(open_id)) => return tiktok.reject_access_tokens(open_id),
        (&Method::POST, CODES_PATH, Some(open_id)) => {
            let known = tiktok.lock().sellers.get(open_id).map(|seller| seller.name.clone());
            let name = known.unwrap_or_else(|| open_id.clone());
            return format!("{}\n", tiktok.auth_code(open_id, &name)).into_response();
        }
        (&Method::GET, CALLS_PATH, _) => {
            return axum::Json(json!({ "refresh_calls": tiktok.all_calls() })).into_response();
        }
        _ => {}
    }
    if method != Method::GET {
        tiktok.lock().posts += 1;
        return not_found();
    }
    match uri.path() {
        "/api/v2/token/refresh" => tiktok.refresh(&query).await,
        "/api/v2/token/get" => tiktok.exchange(&query),
        consent::PATH => consent::page(&tiktok, &query),
        consent::ANSWER_PATH => consent::answer(&tiktok, &query),
        "/authorization/202309/shops" => tiktok.shops(&query, &headers).await,
        _ => not_found(),
    }
}

pub(super) fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found").into_response()
}

fn error(code: i64, message: &str) -> Response {
    axum::Json(json!({ "code": code, "message": message, "request_id": "local" })).into_response()
}

fn with_status(status: u16, body: &'static str, retry_after: Option<u64>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, body).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A response whose connection is closed in the middle of the body.
fn cut(body: &Value) -> Response {
    let half = body.to_string().into_bytes()[..20].to_vec();
    Body::from_stream(stream::iter([Ok(half), Err(io::Error::other("cut"))])).into_response()
}

impl TikTokStandIn {
    async fn refresh(&self, query: &HashMap<String, String>) -> Response {
        let value = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let refresh_token = value("refresh_token");
        let (latency, owner, behaviour) = {
            let mut inner = self.lock();
            let owner = inner.live.get(refresh_token).cloned();
            let default_behaviour = inner.default_behaviour.clone();
            let seller = inner.sellers.entry(owner.clone().unwrap_or_default()).or_default();
            seller.calls += 1;
            let scripted = seller.scripted.pop_front();
            let over_limit = inner.limit.as_mut().and_then(Limit::refuse);
            let behaviour = over_limit.or(scripted).or(default_behaviour).unwrap_or(Behaviour::Normal);
            (inner.latency, owner, behaviour)
        };
        tokio::time::sleep(latency).await;
        // What limits the rate, and the gateway, stand before the service that knows the apps.
        if let Behaviour::Status(status, body, retry_after) = &behaviour {
            return with_status(*status, body, *retry_after);
        }
        if value("grant_type") != "refresh_token" {
            return error(36_004_003, "invalid grant_type");
        }
        if let Some(error) = self.app_error(query) {
            return error;
        }
        match &behaviour {
            Behaviour::Code(code, message) => return error(*code, message),
            Behaviour::Redirect(url) => {
                return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url.clone())]).into_response();
            }
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Normal
            | Behaviour::Status(..)
            | Behaviour::CutAfterRedeeming
            | Behaviour::Garbled(_)
            | Behaviour::StatusAfterRedeeming(_)
            | Behaviour::Huge
            | Behaviour::With(_)
            | Behaviour::Slow(_) => {}
        }
        let Some(open_id) = owner.filter(|open_id| self.lock().belongs(open_id, value("app_key"))) else {
            return error(36_004_005, "can not find related auth record");
        };
        let pair = self.lock().redeem(&open_id, refresh_token);
        let body = self.grant(&open_id, &pair, &behaviour);
        match behaviour {
            Behaviour::CutAfterRedeeming => cut(&body),
            Behaviour::Garbled(bytes) => bytes.into_response(),
            Behaviour::StatusAfterRedeeming(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                (status, "<html>gateway</html>").into_response()
            }
            Behaviour::Huge => " ".repeat(1_000_000).into_response(),
            Behaviour::Slow(wait) => {
                tokio::time::sleep(wait).await;
                axum::Json(body).into_response()
            }
            _ => axum::Json(body).into_response(),
        }
    }

    fn exchange(&self, query: &HashMap<String, String>) -> Response {
        if let Some(error) = self.app_error(query) {
            return error;
        }
        let code = query.get("auth_code").map(String::as_str).unwrap_or_default();
        if query.get("grant_type").map(String::as_str) != Some("authorized_code") {
            return error(36_004_003, "invalid grant_type");
        }
        let pair = {
            let mut inner = self.lock();
            inner
                .codes
                .remove(code)
                .map(|(open_id, behaviour)| (inner.authorize(&open_id, query), open_id, behaviour))
        };
        match pair {
            None => error(36_004_004, "invalid auth code"),
            Some((pair, open_id, behaviour)) => {
                axum::Json(self.grant(&open_id, &pair, &behaviour)).into_response()
            }
        }
    }

    fn reject_access_tokens(&self, open_id: &str) -> Response {
        if !self.lock().sellers.contains_key(open_id) {
            return (StatusCode::NOT_FOUND, format!("there is no seller {open_id}")).into_response();
        }
        self.end_access(open_id);
        StatusCode::NO_CONTENT.into_response()
    }

    /// The error for an unknown app or a wrong app secret.
    fn app_error(&self, query: &HashMap<String, String>) -> Option<Response> {
        let inner = self.lock();
        match inner.apps.iter().find(|app| query.get("app_key") == Some(&app.app_key)) {
            None => Some(error(36_004_002, "Invalid `app_key`")),
            Some(app) if query.get("app_secret").map(String::as_str) != Some(app.app_secret.expose()) => {
                Some(error(36_004_002, "Invalid app_secret"))
            }
            Some(_) => None,
        }
    }

    /// The body of a successful response with a new token pair.
    fn grant(&self, open_id: &str, pair: &Pair, behaviour: &Behaviour) -> Value {
        let now = self.clock.now();
        let inner = self.lock();
        let name = inner.sellers.get(open_id).map(|seller| seller.name.clone()).unwrap_or_default();
        let mut data = json!({
            "access_token": pair.access_token,
            "access_token_expire_in": (now + ACCESS_TOKEN_LIFE).timestamp(),
            "refresh_token": pair.refresh_token,
            "refresh_token_expire_in": (now + REFRESH_TOKEN_LIFE).timestamp(),
            "open_id": open_id, "seller_name": name, "seller_base_region": "VN", "user_type": 0,
            "granted_scopes": ["seller.authorization.info", "seller.order.info"],
        });
        if let (Behaviour::With(Value::Object(fields)), Some(data)) = (behaviour, data.as_object_mut()) {
            for (name, value) in fields {
                if value.is_null() {
                    data.remove(name)
                } else {
                    data.insert(name.clone(), value.clone())
                };
            }
        }
        json!({ "code": 0, "message": "success", "data": data, "request_id": "local" })
    }

    async fn shops(&self, query: &HashMap<String, String>, headers: &HeaderMap) -> Response {
        let error = |status: u16, code: i64, message: &str| {
            let body = json!({ "code": code, "message": message, "data": null, "request_id": "local" });
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            (status, axum::Json(body)).into_response()
        };
        let scripted = {
            let mut inner = self.lock();
            inner.open_api_calls += 1;
            inner.open_api_scripted.pop_front()
        };
        match scripted {
            Some(Behaviour::Hang) => std::future::pending().await,
            Some(Behaviour::Code(code, message)) => return error(200, code, message),
            Some(Behaviour::Status(status, body, retry_after)) => {
                return with_status(status, body, retry_after);
            }
            Some(Behaviour::CutAfterRedeeming) => return cut(&json!({ "code": 0, "message": "Success" })),
            _ => {}
        }
        let inner = self.lock();
        if let Some((status, code, message)) = inner.open_api {
            return error(status, code, message);
        }
        let Some(app) = inner.apps.iter().find(|app| query.get("app_key") == Some(&app.app_key)) else {
            return error(400, 36_009_004, "app_key is invalid");
        };
        let app_key = app.app_key.clone();
        let pairs: Vec<_> = query.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        if query.get("sign").map(String::as_str)
            != Some(sign(&app.app_secret, "/authorization/202309/shops", &pairs, b"").as_str())
        {
            return error(401, 106_001, "sign is invalid");
        }
        let sent_at = query.get("timestamp").and_then(|text| text.parse::<i64>().ok()).unwrap_or_default();
        if !(-300..=30).contains(&(sent_at - self.clock.now().timestamp())) {
            return error(400, 36_009_004, "timestamp is invalid");
        }
        let token =
            headers.get("x-tts-access-token").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let owner = inner.access.get(token).cloned();
        let owner = owner.filter(|open_id| inner.belongs(open_id, &app_key));
        match owner.and_then(|open_id| inner.sellers.get(&open_id)) {
            None => error(401, 105_002, "access token is expired"),
            Some(seller) => axum::Json(json!({
                "code": 0, "message": "Success", "request_id": "local",
                "data": { "shops": [{ "id": "7495", "name": seller.name, "region": "VN", "seller_type": "LOCAL",
                                      "cipher": "ROW_local", "code": "VNLOCAL" }] },
            }))
            .into_response(),
        }
    }
}
