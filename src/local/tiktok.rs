//! A stand-in for TikTok Shop that behaves as documented: GET requests only, errors as a code with HTTP status 200,
//! absolute expiries and, optionally, single-use refresh tokens. Tests script its behaviour call by call.

pub(super) mod answers;

use super::consent::Registration;
use crate::domain::{clock::Clock, secret::AppCredentials};
use axum::Router;
use chrono::TimeDelta;
use governor::{DefaultDirectRateLimiter, Quota};
use serde_json::Value;
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
        axum::serve(listener, Router::new().fallback(answers::route).with_state(self)).await
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
