//! A Lambda function URL on this machine: an HTTP request becomes an event of the public function, and its response an HTTP
//! response again.
//! <https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads>

use super::invoke::FUNCTION_ARN;
use crate::{
    domain::clock::Clock,
    handler::{Function, HttpResponse, Response as FunctionResponse},
};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The public function's timeout, as in the SAM template.
const TIMEOUT: TimeDelta = TimeDelta::seconds(150);

/// The router of the public function.
pub fn router(function: Arc<Function>, clock: Clock) -> Router {
    Router::new().fallback(request).with_state((function, clock))
}

async fn request(
    State((function, clock)): State<(Arc<Function>, Clock)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let event = event(&method, &uri, &headers).to_string();
    let deadline = clock.now() + TIMEOUT;
    // A separate task, because a browser that goes away must not cancel a save.
    let task = tokio::spawn(async move { function.handle_invoked(&event, FUNCTION_ARN, deadline).await });
    match task.await {
        Ok(Ok(FunctionResponse::Http(HttpResponse { status_code, headers, body }))) => {
            let status = StatusCode::from_u16(status_code).unwrap_or(StatusCode::BAD_GATEWAY);
            let mut response = (status, body).into_response();
            for (name, value) in headers {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    response.headers_mut().insert(name, value);
                }
            }
            response
        }
        _ => (StatusCode::BAD_GATEWAY, "Internal Server Error").into_response(),
    }
}

/// The event of a request, in payload format 2.0.
pub fn event(method: &Method, uri: &Uri, headers: &HeaderMap) -> Value {
    let mut joined = Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        joined.insert(name.to_string(), values.join(",").into());
    }
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": uri.path(),
        "rawQueryString": uri.query().unwrap_or_default(), "headers": joined,
        "requestContext": {
            "accountId": "anonymous", "routeKey": "$default", "stage": "$default",
            "http": {"method": method.as_str(), "path": uri.path(), "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
        },
        "isBase64Encoded": false,
    })
}
