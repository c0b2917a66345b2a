//! `cleanup`: sets the status `expired` on integrations whose refresh token has expired. So they differ from integrations that
//! failed for another reason.

use crate::{
    aws::dynamodb::{MalformedRow, TableError, updates},
    domain::{
        integration::{Candidate, IntegrationKey, Status},
        selection::CleanupRequest,
    },
    response::{CleanupReport, CleanupResponse, CleanupResults},
    services::{Services, last_read},
};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use tracing::{Instrument, error, error_span, info, warn};

/// The result for one row.
enum Cleaned {
    Marked(Box<Candidate>),
    WouldMark(Box<Candidate>),
    Skipped,
    /// The time ran out before the mark, or before the table confirmed it.
    Deferred,
    Failed(IntegrationKey, Option<String>, String),
}

/// Answers a `cleanup` request, by `deadline`.
///
/// # Errors
/// [`TableError`] if the table cannot be read.
pub(crate) async fn run(
    services: &Services,
    request: &CleanupRequest,
    deadline: DateTime<Utc>,
) -> Result<CleanupResponse, TableError> {
    let run_id = uuid::Uuid::new_v4().to_string();
    let span = error_span!("cleanup", run_id);
    let clean_up_all = async {
        let mut results = CleanupResults::default();
        let mut pages = services.table.candidates(&request.selection);
        results.was_read_to_the_end = loop {
            let page = match services.by(last_read(deadline), pages.next()).await {
                Some(Some(page)) => page?,
                Some(None) => break true,
                None => break false,
            };
            let rows = stream::iter(page).map(|row| async {
                let cleaned = clean_up(services, request.dry_run, row);
                services.by(last_read(deadline), cleaned).await.unwrap_or(Cleaned::Deferred)
            });
            let mut cleaned = rows.buffer_unordered(services.settings.max_concurrency);
            while let Some(cleaned) = cleaned.next().await {
                record(&mut results, cleaned);
            }
        };
        if !results.is_complete() {
            warn!(deferred = results.counts.deferred, "the time ran out before every row was read and done");
        }
        Ok(results)
    };
    let results = clean_up_all.instrument(span).await?;
    Ok(CleanupResponse::new(run_id, request, results))
}

async fn clean_up(services: &Services, dry_run: bool, row: Result<Candidate, MalformedRow>) -> Cleaned {
    let row = match row {
        Ok(row) => row,
        Err(malformed) => return Cleaned::Failed(malformed.key.clone(), None, malformed.to_string()),
    };
    let now = services.clock.now();
    let is_ours = matches!(row.status, Status::Active | Status::Error);
    if !is_ours || !row.refresh_token_expired(now) || row.live_lease(now).is_some() {
        return Cleaned::Skipped;
    }
    if dry_run {
        return Cleaned::WouldMark(Box::new(row));
    }
    match services.table.update(&row.key, updates::clean_up(&row)).await {
        Ok(Ok(())) => Cleaned::Marked(Box::new(row)),
        Ok(Err(_)) => Cleaned::Skipped,
        Err(error) => Cleaned::Failed(row.key, row.seller_name, error.to_string()),
    }
}

fn record(results: &mut CleanupResults, cleaned: Cleaned) {
    results.counts.examined += 1;
    match cleaned {
        Cleaned::Skipped => results.counts.skipped += 1,
        Cleaned::Deferred => results.counts.deferred += 1,
        Cleaned::Marked(row) => {
            let Candidate { key, seller_name, .. } = *row;
            key.span().in_scope(|| info!("marked the integration as expired: its refresh token has expired"));
            results.counts.marked += 1;
            results.list(CleanupReport { key, seller_name, outcome: "marked", message: None });
        }
        Cleaned::WouldMark(row) => {
            let Candidate { key, seller_name, .. } = *row;
            results.counts.would_mark += 1;
            let message = Some("the refresh token has expired".into());
            results.list(CleanupReport { key, seller_name, outcome: "would_mark", message });
        }
        Cleaned::Failed(key, seller_name, why) => {
            key.span().in_scope(|| error!("could not mark the integration as expired: {why}"));
            results.counts.failed += 1;
            results.list(CleanupReport { key, seller_name, outcome: "failed", message: Some(why) });
        }
    }
}
