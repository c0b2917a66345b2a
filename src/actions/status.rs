//! The status report: reads the table, and writes the report as it was asked for.

use crate::{
    aws::dynamodb::StoreError,
    domain::{integration::Rule, report_row::Tokens},
    event::{Format, StatusRequest},
    response::Answer,
    services::Services,
    status_report::{Depth, Examination},
};
use futures_util::StreamExt;

/// Answers a request for a status report.
///
/// # Errors
/// [`StoreError`] if the table cannot be read.
pub async fn run(services: &Services, request: &StatusRequest) -> Result<Answer, StoreError> {
    let rule = Rule {
        now: services.clock.now(),
        refresh_ahead: services.settings.refresh_ahead,
        force: false,
        unless_refreshed_since: None,
    };
    let depth = if request.format == Format::Summary { Depth::Summary } else { Depth::Full };
    let mut examination = Examination::new(rule, depth);
    for tokens in [Tokens::Both, Tokens::NoAccessToken, Tokens::NoRefreshToken] {
        let mut pages = services.store.health_rows(&request.selection, tokens);
        while let Some(page) = pages.next().await {
            for row in page? {
                match row {
                    Ok(row) => examination.row(row, tokens),
                    Err(malformed) => examination.malformed(&malformed.key, &malformed.to_string()),
                }
            }
        }
    }
    let report = examination.finish();
    Ok(match &request.format {
        Format::Json => Answer::Status(Box::new(report)),
        Format::Html(place) => Answer::Text(report.html(place)),
        Format::Table => Answer::Text(report.table()),
        Format::Summary => Answer::Text(report.summary()),
    })
}
