//! Lambda's Invoke endpoint, so that the AWS CLI and SDKs can call the function on this machine.
//! <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>

use crate::{domain::clock::Clock, handler::Function};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use chrono::TimeDelta;
use lambda_runtime::Diagnostic;
use serde_json::json;
use std::{collections::HashMap, sync::Arc};

/// The function's name, as in the SAM template.
pub const FUNCTION_NAME: &str = "tiktok-token-refresh";
/// The function's ARN, without a version or alias.
pub const FUNCTION_ARN: &str = "arn:aws:lambda:us-east-1:123456789012:function:tiktok-token-refresh";
/// The function's timeout.
pub const TIMEOUT: TimeDelta = TimeDelta::minutes(15);
/// Lambda's limit on a synchronous event, in bytes.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const MAX_EVENT: usize = 6 * 1024 * 1024;

#[derive(Clone)]
struct Endpoint {
    function: Arc<Function>,
    clock: Clock,
}

/// The router of the endpoint.
pub fn router(function: Arc<Function>, clock: Clock) -> Router {
    Router::new()
        .route("/2015-03-31/functions/{name}/invocations", post(invoke))
        .layer(DefaultBodyLimit::max(MAX_EVENT))
        .with_state(Endpoint { function, clock })
}

async fn invoke(
    State(endpoint): State<Endpoint>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    event: String,
) -> Response {
    let Some(arn) = invoked_arn(&name, query.get("Qualifier").map(String::as_str)) else {
        let message = format!(
            "Function not found: {name}; the local stack has only {FUNCTION_NAME}, $LATEST and the alias ensure"
        );
        return service_error(StatusCode::NOT_FOUND, "ResourceNotFoundException", &message);
    };
    let kind =
        headers.get("x-amz-invocation-type").and_then(|kind| kind.to_str().ok()).unwrap_or("RequestResponse");
    if kind == "DryRun" {
        return StatusCode::NO_CONTENT.into_response();
    }
    // A missing payload is an empty event, as on Lambda.
    let event = if event.trim().is_empty() { "{}".to_owned() } else { event };
    if serde_json::from_str::<serde::de::IgnoredAny>(&event).is_err() {
        let message = "Could not parse request body into json";
        return service_error(StatusCode::BAD_REQUEST, "InvalidRequestContentException", message);
    }
    let deadline = endpoint.clock.now() + TIMEOUT;
    // A separate task, because a client that disconnects must not cancel a refresh.
    let task = tokio::spawn(async move { endpoint.function.handle_invoked(&event, &arn, deadline).await });
    if kind == "Event" {
        return StatusCode::ACCEPTED.into_response();
    }
    let version = ("x-amz-executed-version", "$LATEST");
    match task.await {
        Ok(Ok(response)) => ([version], Json(response)).into_response(),
        Ok(Err(error)) => function_error(version, error.into()),
        Err(panic) => function_error(version, Diagnostic::from(panic.to_string())),
    }
}

/// The response for an error of the function: HTTP status 200, and a header that marks the error.
fn function_error(version: (&'static str, &'static str), error: Diagnostic) -> Response {
    ([version, ("x-amz-function-error", "Unhandled")], Json(error)).into_response()
}

/// The response for an error of Lambda itself.
fn service_error(status: StatusCode, kind: &'static str, message: &str) -> Response {
    let body = json!({ "Type": "User", "message": message, "Message": message });
    (status, [("x-amzn-errortype", kind)], Json(body)).into_response()
}

/// The ARN that the function sees when it is invoked by this name, partial ARN or ARN, which may end with a version or an alias;
/// `None` for another function, version or alias: on Lambda, too, a typing slip must not open every action.
fn invoked_arn(name: &str, qualifier: Option<&str>) -> Option<String> {
    let name = name.rsplit_once("function:").map_or(name, |(_, name)| name);
    let (name, in_name) =
        name.split_once(':').map_or((name, None), |(name, qualifier)| (name, Some(qualifier)));
    if in_name.is_some() && qualifier.is_some() && in_name != qualifier {
        return None;
    }
    let suffix = match in_name.or(qualifier) {
        None => "",
        Some("$LATEST") => ":$LATEST",
        Some("ensure") => ":ensure",
        Some(_) => return None,
    };
    (name == FUNCTION_NAME).then(|| format!("{FUNCTION_ARN}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_has_a_name_and_arns() {
        for (name, expected) in [
            ("tiktok-token-refresh", ""),
            ("tiktok-token-refresh:$LATEST", ":$LATEST"),
            ("123456789012:function:tiktok-token-refresh", ""),
            ("arn:aws:lambda:eu-central-1:123456789012:function:tiktok-token-refresh:ensure", ":ensure"),
        ] {
            assert_eq!(invoked_arn(name, None), Some(format!("{FUNCTION_ARN}{expected}")), "{name}");
        }
        let by_query = invoked_arn("tiktok-token-refresh", Some("ensure"));
        assert_eq!(by_query, Some(format!("{FUNCTION_ARN}:ensure")));
        assert_eq!((invoked_arn("tiktok-token", None), invoked_arn("", None)), (None, None));
        assert_eq!(invoked_arn("tiktok-token-refresh:ensured", None), None);
        assert_eq!(invoked_arn("tiktok-token-refresh", Some("live")), None);
        assert_eq!(invoked_arn("tiktok-token-refresh:ensure", Some("$LATEST")), None);
    }
}
