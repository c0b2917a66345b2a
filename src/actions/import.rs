//! `import`: creates rows for existing tokens. Never overwrites a row that exists, and writes nothing if any row of the request is
//! invalid.

use crate::{
    aws::dynamodb::{Conflict, TableError, updates},
    domain::import::{ImportRequest, NewIntegration, Row, RowId},
    response::{ImportOutcome, ImportReport, ImportResponse},
    services::{Services, last_read},
};
use backon::{ExponentialBuilder, Retryable};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::time::Duration;
use tracing::{Instrument, error, info};

/// How often a write is retried if DynamoDB throttles it or does not answer, in addition to the SDK's own retries.
const RETRIES: usize = 4;

/// Answers an `import` request, by `deadline`.
///
/// # Errors
/// [`TableError`] if a dry run cannot read the table. A failed write is no error: the response reports it for its row.
pub(crate) async fn run(
    services: &Services,
    request: ImportRequest,
    deadline: DateTime<Utc>,
) -> Result<ImportResponse, TableError> {
    let ImportRequest { rows, dry_run } = request;
    let is_valid = rows.iter().all(|row| row.integration.is_ok());
    let reports = stream::iter(rows)
        .map(|Row { id, integration }| async {
            match integration {
                Err(invalid) => {
                    let report = ImportReport::new(id, ImportOutcome::Invalid);
                    Ok(report.because(invalid.reason, invalid.message))
                }
                Ok(_) if !is_valid => {
                    Ok(not_written(id, "other_rows_invalid", "other rows of the request are invalid"))
                }
                Ok(integration) if dry_run => look_up(services, id, &integration, deadline).await,
                Ok(integration) => {
                    let span = integration.key.span();
                    Ok(create(services, id, &integration, deadline).instrument(span).await)
                }
            }
        })
        .buffered(services.settings.max_concurrency)
        .try_collect()
        .await?;
    let response = ImportResponse::new(dry_run, reports);
    let counts = response.counts;
    info!(
        dry_run,
        created = counts.created,
        would_create = counts.would_create,
        exists = counts.exists,
        invalid = counts.invalid,
        not_written = counts.not_written,
        "TikTok Shop integrations imported"
    );
    Ok(response)
}

/// What the request would do with this row if it were not a dry run.
async fn look_up(
    services: &Services,
    id: RowId,
    integration: &NewIntegration,
    deadline: DateTime<Utc>,
) -> Result<ImportReport, TableError> {
    let exists = services.by(last_read(deadline), services.table.exists(&integration.key)).await;
    Ok(match exists.transpose()? {
        Some(true) => ImportReport::new(id, ImportOutcome::Exists),
        Some(false) => ImportReport::new(id, ImportOutcome::WouldCreate),
        None => out_of_time(id),
    })
}

/// Creates a row, if its key is free.
async fn create(
    services: &Services,
    id: RowId,
    integration: &NewIntegration,
    deadline: DateTime<Utc>,
) -> ImportReport {
    // New with each import. It shows whether a row that exists is our own, written by a request whose response was lost.
    let authorization_id = uuid::Uuid::new_v4().simple().to_string();
    let backoff = ExponentialBuilder::new()
        .with_min_delay(services.retry_policy.save_backoff)
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .with_max_times(RETRIES);
    let write = (|| services.table.create(&integration.key, updates::import(integration, &authorization_id)))
        .retry(backoff)
        .when(TableError::is_transient);
    match services.by(last_read(deadline), write).await {
        Some(Ok(Ok(()))) => created(id),
        Some(Ok(Err(Conflict::Changed(stored))))
            if stored.authorization_id.as_deref() == Some(&authorization_id) =>
        {
            created(id)
        }
        Some(Ok(Err(_))) => ImportReport::new(id, ImportOutcome::Exists),
        Some(Err(error)) => {
            error!("could not import the TikTok Shop integration: {error}");
            not_written(id, "store_error", error.to_string())
        }
        None => out_of_time(id),
    }
}

fn created(id: RowId) -> ImportReport {
    info!("TikTok Shop integration imported");
    ImportReport::new(id, ImportOutcome::Created)
}

fn not_written(id: RowId, reason: &'static str, message: impl Into<String>) -> ImportReport {
    ImportReport::new(id, ImportOutcome::NotWritten).because(reason, message)
}

fn out_of_time(id: RowId) -> ImportReport {
    error!("could not import the TikTok Shop integration: the invocation's time ran out");
    not_written(id, "out_of_time", "the invocation's time ran out; import it again")
}
