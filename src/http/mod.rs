//! The public endpoint, to which TikTok redirects a seller's browser after the consent page. Anybody can reach it. So it does
//! nothing before it has verified the state's signature, and no answer tells whether a team or an integration exists.

mod page;

use crate::{
    actions::{
        connect::{self, ConnectError},
        connect_link::{self, UnverifiedError},
    },
    aws::dynamodb::TableError,
    domain::{
        connect_link::{ConnectState, LinkTarget, StateError},
        integration::IntegrationKey,
        secret::AuthCode,
    },
    event::{self, BadEvent, ConnectRequest, HttpRequest},
    services::{Services, last_read},
    tiktok::CallError,
};
use chrono::{DateTime, Utc};
use page::{Language, Page};
use serde::Serialize;
use std::collections::BTreeMap;
use tracing::{error, info};
use url::form_urlencoded;

/// The path that TikTok redirects sellers to.
const PATH: &str = "/connect";

/// A response of the public endpoint, as a function URL expects it.
/// <https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads>
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpResponse {
    /// The HTTP status.
    pub status_code: u16,
    /// The headers, by their names in lower case.
    pub headers: BTreeMap<&'static str, String>,
    /// A small page in HTML.
    pub body: String,
}

/// Responds to the event of a function URL, by `deadline`.
///
/// # Errors
/// [`BadEvent`] for every other event.
pub(crate) async fn respond(
    services: &Services,
    event: &str,
    deadline: DateTime<Utc>,
) -> Result<HttpResponse, BadEvent> {
    let request = event::parse_http(event)?;
    let page = answer(services, &request, deadline).await;
    info!(status = page.status(), page = page.name(), "answered a request to the public endpoint");
    Ok(page.response(Language::preferred(&request.accept_language)))
}

async fn answer(services: &Services, request: &HttpRequest, deadline: DateTime<Utc>) -> Page {
    if request.path != PATH {
        return Page::NotFound;
    }
    if request.method != "GET" {
        return Page::MethodNotAllowed;
    }
    let Ok(query) = Query::parse(&request.query) else { return Page::BadLink };
    let Some(Ok(state)) = query.state.as_deref().map(ConnectState::parse) else { return Page::BadLink };
    let verified = services.by(last_read(deadline), connect_link::verify(services, &state)).await;
    let target = match verified {
        Some(Ok(target)) => target,
        Some(Err(UnverifiedError::State(StateError::Expired))) => return Page::ExpiredLink,
        Some(Err(UnverifiedError::State(StateError::Malformed | StateError::Forged))) => {
            return Page::BadLink;
        }
        Some(Err(UnverifiedError::Credentials(error))) => {
            error!("could not verify a link: {error}");
            return Page::Unavailable;
        }
        None => {
            error!("could not verify a link: the invocation's time ran out");
            return Page::Unavailable;
        }
    };
    if query.app_key.is_some_and(|app_key| app_key != target.app_key) {
        return Page::BadLink;
    }
    match query.code {
        Some(code) => connect(services, target, code.into(), deadline).await,
        None => Page::Declined,
    }
}

/// The parameters that TikTok sends back. Others, such as `locale`, do not matter.
#[derive(Default)]
struct Query {
    state: Option<String>,
    code: Option<String>,
    app_key: Option<String>,
}

impl Query {
    /// Reads the parameters. An empty one counts as absent. If one occurs twice, nobody knows which is meant, so it is an error.
    fn parse(query: &str) -> Result<Self, ()> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let parameter = match &*name {
                "state" => &mut parsed.state,
                "code" => &mut parsed.code,
                "app_key" => &mut parsed.app_key,
                _ => continue,
            };
            if parameter.replace(value.into_owned()).is_some() {
                return Err(());
            }
        }
        let non_empty = |value: Option<String>| value.filter(|value| !value.is_empty());
        let Self { state, code, app_key } = parsed;
        Ok(Self { state: non_empty(state), code: non_empty(code), app_key: non_empty(app_key) })
    }
}

async fn connect(
    services: &Services,
    LinkTarget { key, app_key, .. }: LinkTarget,
    auth_code: AuthCode,
    deadline: DateTime<Utc>,
) -> Page {
    let code_id = auth_code.sha256();
    // A reloaded page. TikTok is not asked: OAuth allows it to revoke what a code brought when the code comes a second time.
    match is_connected_by(services, &key, &code_id, deadline).await {
        Ok(false) => {}
        Ok(true) => return Page::Connected { seller_name: None },
        Err(error) => {
            error!("could not connect the TikTok Shop integration: {error}");
            return Page::Unavailable;
        }
    }
    let request = ConnectRequest { key, auth_code, app_key: Some(app_key), replace: false };
    let error = match Box::pin(connect::run(services, &request, deadline)).await {
        Ok(response) => return Page::Connected { seller_name: response.seller_name },
        Err(error) => error,
    };
    match error {
        ConnectError::Exchange(CallError::Refused { .. } | CallError::Reauthorize { .. }) => {
            // Perhaps the browser sent the code twice at once, and the other request has saved its pair by now.
            tokio::time::sleep(services.retry_policy.lost_response_wait).await;
            match is_connected_by(services, &request.key, &code_id, deadline).await {
                Ok(true) => Page::Connected { seller_name: None },
                Ok(false) | Err(_) => Page::CodeRefused,
            }
        }
        ConnectError::Exchange(
            CallError::NotConnected { .. }
            | CallError::Busy { .. }
            | CallError::ServerError { .. }
            | CallError::Ambiguous { .. }
            | CallError::Misconfigured { .. },
        ) => Page::Unclear,
        ConnectError::AnotherSeller { .. } => Page::AnotherShop,
        // The same seller's later authorization is in the row.
        ConnectError::Overtaken => Page::Connected { seller_name: None },
        // The secret that signed the link was replaced by one without the app.
        ConnectError::UnknownApp(_) | ConnectError::BadEvent(_) => Page::BadLink,
        ConnectError::Credentials(_)
        | ConnectError::Table(_)
        | ConnectError::NotStored(_)
        | ConnectError::OutOfTime
        | ConnectError::Contended => Page::Unavailable,
    }
}

/// Whether this very code has connected the integration.
async fn is_connected_by(
    services: &Services,
    key: &IntegrationKey,
    code_id: &str,
    deadline: DateTime<Utc>,
) -> Result<bool, TableError> {
    let read = services.by(last_read(deadline), services.table.read(key)).await;
    let out_of_time = || TableError::NoResponse { cause: "the invocation's time ran out".into() };
    let row = read.ok_or_else(out_of_time)??;
    Ok(row.is_some_and(|row| row.authorization_id.as_deref() == Some(code_id)))
}
