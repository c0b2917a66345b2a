//! The clean-up: marks integrations whose refresh token has expired as `expired`, so that they are told apart from those
//! that failed for another reason.

use crate::{
    aws::dynamodb::{Change, Malformed, StoreError},
    domain::{
        integration::{Candidate, Status},
        selection::CleanupRequest,
    },
    response::{CleanupAnswer, CleanupTally},
    services::Services,
};
use futures_util::{StreamExt, stream};
use tracing::{error, info};

/// What came of one row.
enum Cleaned {
    Marked(Candidate),
    WouldMark(Candidate),
    Skipped,
    Failed(Candidate, StoreError),
    Malformed(Malformed),
}

/// Answers a request to clean up.
///
/// # Errors
/// [`StoreError`] if the table cannot be read.
pub async fn run(services: &Services, request: &CleanupRequest) -> Result<CleanupAnswer, StoreError> {
    let run_id = uuid::Uuid::new_v4().to_string();
    let mut tally = CleanupTally::default();
    let mut pages = services.store.candidates(&request.selection);
    while let Some(page) = pages.next().await {
        let rows = stream::iter(page?).map(|row| clean(services, request.dry_run, row));
        let mut cleaned = rows.buffer_unordered(services.settings.max_concurrency);
        while let Some(cleaned) = cleaned.next().await {
            count(&mut tally, &run_id, cleaned);
        }
    }
    Ok(CleanupAnswer::new(run_id, request, tally))
}

async fn clean(services: &Services, dry_run: bool, row: Result<Candidate, Malformed>) -> Cleaned {
    let row = match row {
        Ok(row) => row,
        Err(malformed) => return Cleaned::Malformed(malformed),
    };
    let now = services.clock.now();
    let is_ours = matches!(row.status, Status::Active | Status::Error);
    if !is_ours || !row.refresh_token_expired(now) || row.live_lease(now).is_some() {
        return Cleaned::Skipped;
    }
    if dry_run {
        return Cleaned::WouldMark(row);
    }
    // Unless the seller has connected again, or an attempt has begun, since the row was read.
    let change = Change::default()
        .set_text("status", Status::Expired.as_str())
        .release()
        .only_if("status", Some(row.status.as_str()))
        .only_if_time("refresh_token_expires_at", row.refresh_expires_at)
        .only_if("lock_owner", row.lease.as_ref().map(|lease| lease.owner.as_str()));
    match services.store.change(&row.key, change).await {
        Ok(Ok(())) => Cleaned::Marked(row),
        Ok(Err(_)) => Cleaned::Skipped,
        Err(error) => Cleaned::Failed(row, error),
    }
}

fn count(tally: &mut CleanupTally, run_id: &str, cleaned: Cleaned) {
    tally.counts.examined += 1;
    match cleaned {
        Cleaned::Skipped => tally.counts.skipped += 1,
        Cleaned::Marked(row) => {
            let key = row.key;
            info!(
                run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "marked as expired"
            );
            tally.counts.marked += 1;
            tally.list(key, "marked", None);
        }
        Cleaned::WouldMark(row) => {
            tally.counts.would_mark += 1;
            tally.list(row.key, "would_mark", Some("the refresh token has expired".into()));
        }
        Cleaned::Failed(row, error) => {
            let key = row.key;
            error!(
                run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "not marked: {error}"
            );
            tally.counts.failed += 1;
            tally.list(key, "failed", Some(error.to_string()));
        }
        Cleaned::Malformed(malformed) => {
            let key = malformed.key.clone();
            error!(
                run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "not marked: {malformed}"
            );
            tally.counts.failed += 1;
            tally.list(key, "failed", Some(malformed.to_string()));
        }
    }
}
