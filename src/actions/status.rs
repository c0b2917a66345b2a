//! `status`: reads the table, and writes the report in the format that was asked for.

use crate::{
    aws::dynamodb::TableError,
    domain::{integration::DuePolicy, report_row::StoredTokens},
    event::{Format, StatusRequest},
    services::Services,
    status_report::{Detail, ReportBuilder, StatusReport},
};
use futures_util::StreamExt;

/// A status report as it was asked for.
#[derive(Debug)]
pub(crate) enum Status {
    Json(Box<StatusReport>),
    Text(String),
}

/// Answers a `status` request.
///
/// # Errors
/// [`TableError`] if the table cannot be read.
pub(crate) async fn run(services: &Services, request: &StatusRequest) -> Result<Status, TableError> {
    let policy = DuePolicy {
        now: services.clock.now(),
        refresh_ahead: services.settings.refresh_ahead,
        force: false,
        unless_refreshed_since: None,
    };
    let detail = if request.format == Format::Summary { Detail::Summary } else { Detail::Full };
    let mut report = ReportBuilder::new(policy, detail);
    for tokens in [StoredTokens::Both, StoredTokens::NoAccessToken, StoredTokens::NoRefreshToken] {
        let mut pages = services.table.report_rows(&request.selection, tokens);
        while let Some(page) = pages.next().await {
            for row in page? {
                match row {
                    Ok(row) => report.row(row, tokens),
                    Err(malformed) => report.malformed(&malformed.key, &malformed.to_string()),
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
