//! `status`: reads the table, and returns the report in the requested format.

use crate::{
    aws::dynamodb::TableError,
    domain::{due::DuePolicy, report_row::StoredTokens},
    event::{Format, StatusRequest},
    services::{Services, last_read},
    status_report::{Detail, ReportBuilder, StatusReport},
};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;

/// A status report in the requested format.
#[derive(Debug)]
pub(crate) enum Status {
    Json(Box<StatusReport>),
    Text(String),
}

/// Answers a `status` request, by `deadline`.
///
/// # Errors
/// [`TableError`] if the table cannot be read.
pub(crate) async fn run(
    services: &Services,
    request: &StatusRequest,
    deadline: DateTime<Utc>,
) -> Result<Status, TableError> {
    let policy = DuePolicy {
        now: services.clock.now(),
        refresh_ahead: services.settings.refresh_ahead,
        force: false,
        unless_refreshed_since: None,
    };
    let detail = if request.format == Format::Summary { Detail::Summary } else { Detail::Full };
    let mut report = ReportBuilder::new(policy, detail);
    // The last scan reads all rows again, to name those that share an authorization.
    let readings = [StoredTokens::Both, StoredTokens::NoAccessToken, StoredTokens::NoRefreshToken].map(Some);
    for tokens in readings.into_iter().chain([None]) {
        if tokens.is_none() && !report.has_shared_authorizations() {
            break;
        }
        let mut pages = services.table.report_rows(&request.selection, tokens);
        loop {
            let page = match services.by(last_read(deadline), pages.next()).await {
                Some(Some(page)) => page?,
                Some(None) => break,
                None => {
                    report.cut_off();
                    break;
                }
            };
            for row in page {
                match (row, tokens) {
                    (Ok(row), Some(tokens)) => report.row(row, tokens),
                    (Err(malformed), Some(_)) => report.unreadable(&malformed.key, &malformed.to_string()),
                    (Ok(row), None) => report.name_shared(&row),
                    (Err(_), None) => {}
                }
            }
        }
    }
    let report = report.finish();
    Ok(match &request.format {
        Format::Json => Status::Json(Box::new(report)),
        Format::Html(display) => Status::Text(report.html(display)),
        Format::Table => Status::Text(report.table()),
        Format::Summary => Status::Text(report.summary()),
    })
}
