//! The stand-in's answers over HTTP.

use super::{
    ACCESS_TOKEN_LIFE, Behaviour, CALLS_PATH, CODES_PATH, Limit, Pair, REFRESH_TOKEN_LIFE, REJECT_PATH,
    TikTokStandIn,
};
use crate::{local::consent, tiktok::sign};
use axum::{
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use std::{collections::HashMap, io};

pub(super) async fn route(
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

pub(in crate::local) fn not_found() -> Response {
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
