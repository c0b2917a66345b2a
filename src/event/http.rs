//! The event of a Lambda function URL, which is an HTTP request.
//! <https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads>

use super::read::{BadEvent, Object, read};
use crate::domain::quoted::quoted;
use serde::Deserialize;
use std::{collections::HashMap, fmt};

/// An HTTP request, as far as the public endpoint looks at it.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method, such as `GET`.
    pub method: String,
    /// The path, such as `/connect`.
    pub path: String,
    /// The query as it was sent. It holds an auth code and a state.
    pub query: String,
    /// The `Accept-Language` header; empty if there is none.
    pub accept_language: String,
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpRequest({:?}, {:?})", self.method, self.path)
    }
}

/// AWS may add fields, so unknown ones are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpEvent {
    version: String,
    raw_path: String,
    #[serde(default)]
    raw_query_string: String,
    #[serde(default)]
    headers: HashMap<String, String>,
    request_context: Object<RequestContext>,
}

#[derive(Deserialize)]
struct RequestContext {
    http: Object<Http>,
}

#[derive(Deserialize)]
struct Http {
    method: String,
}

/// Parses the event of a function URL, which the public function accepts alone.
///
/// # Errors
/// [`BadEvent`] for every other event. The message never quotes a query.
pub fn parse_http(event: &str) -> Result<HttpRequest, BadEvent> {
    let event: HttpEvent = read(event).map_err(|BadEvent(problem)| {
        BadEvent(format!("the public function answers only requests to its function URL: {problem}"))
    })?;
    if event.version != "2.0" {
        return Err(BadEvent(format!("version: got {}, expected \"2.0\"", quoted(&event.version))));
    }
    // Lambda writes the names of headers in lower case.
    let accept_language = event.headers.get("accept-language").cloned().unwrap_or_default();
    let Object(RequestContext { http: Object(Http { method }) }) = event.request_context;
    Ok(HttpRequest { method, path: event.raw_path, query: event.raw_query_string, accept_language })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn event() -> serde_json::Value {
        json!({
            "version": "2.0", "routeKey": "$default", "rawPath": "/connect", "rawQueryString": "code=c&state=s",
            "headers": {"accept-language": "vi", "host": "x.lambda-url.eu-central-1.on.aws"},
            "queryStringParameters": {"code": "c", "state": "s"},
            "requestContext": {"accountId": "anonymous", "http": {"method": "GET", "path": "/connect",
                "protocol": "HTTP/1.1", "sourceIp": "203.0.113.1", "userAgent": "a browser"}},
            "isBase64Encoded": false,
        })
    }

    #[test]
    fn a_request_is_read_and_debug_output_hides_its_query() {
        let request = parse_http(&event().to_string()).unwrap();
        assert_eq!(
            (request.method.as_str(), request.path.as_str(), request.query.as_str()),
            ("GET", "/connect", "code=c&state=s")
        );
        assert_eq!(request.accept_language, "vi");
        assert_eq!(format!("{request:?}"), r#"HttpRequest("GET", "/connect")"#);
    }

    #[test]
    fn the_public_function_accepts_no_other_event() {
        for event in [
            "{}",
            r#"{"action":"refresh"}"#,
            r#"{"action":"connect","team_id":1,"integration_id":7,"auth_code":"c","replace":true}"#,
            include_str!("../../events/scheduled.json"),
            r#"{"Records":[]}"#,
            "[]",
            "7",
        ] {
            assert!(parse_http(event).is_err(), "{event}");
        }
        let mut other = event();
        other["version"] = json!("1.0");
        let error = parse_http(&other.to_string()).unwrap_err().to_string();
        assert_eq!(error, "bad event: version: got \"1.0\", expected \"2.0\"");
    }

    #[test]
    fn the_main_function_accepts_no_http_request() {
        let mut disguised = event();
        disguised["action"] = json!("status");
        for event in [event(), disguised] {
            let error = parse(&event.to_string()).unwrap_err().to_string();
            assert!(error.starts_with("bad event: requestContext: got an HTTP request"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_error_quotes_the_query(query in "[a-z]{8,20}", missing in 0usize..4) {
            let mut event = event();
            event["rawQueryString"] = json!(query);
            let name = ["version", "rawPath", "requestContext", "headers"][missing];
            event[name] = json!(7);
            let error = parse_http(&event.to_string()).unwrap_err().to_string();
            prop_assert!(!error.contains(&query), "{}", error);
        }
    }
}
