//! `verify`: calls TikTok with each stored token. If TikTok rejects a token, refreshes it once, as `ensure` does, and calls again.
//! Reports any other error without a refresh. Stores the shops that TikTok lists.

use super::{
    ensure::{TokenError, TokenSource},
    shops,
};
use crate::{
    aws::{
        dynamodb::{MalformedRow, TableError},
        secrets_manager::CredentialsError,
    },
    domain::{
        integration::{Candidate, Status},
        reason::Reason,
        selection::Selection,
    },
    refresh::Refresher,
    response::{VerifyReport, VerifyResponse, VerifyResults},
    services::{Services, last_read},
};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryFutureExt, stream};
use std::sync::Arc;
use tracing::{Instrument, debug, error, error_span, info, warn};

/// Why a verification failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The secret cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Verifies each active integration of a selection, by `deadline`.
///
/// # Errors
/// [`VerifyError`] if the table or the secret cannot be read.
pub(crate) async fn run(
    services: &Arc<Services>,
    selection: &Selection,
    deadline: DateTime<Utc>,
) -> Result<VerifyResponse, VerifyError> {
    let run_id = uuid::Uuid::new_v4().to_string();
    let span = error_span!("verify", run_id);
    let verify_all = async {
        let source = TokenSource::new(services, run_id.clone(), deadline);
        let refresher = source.refresher().await?;
        let mut results = VerifyResults::default();
        let mut pages = services.table.candidates(selection);
        results.was_read_to_the_end = loop {
            let page = match services.by(last_read(deadline), pages.next()).await {
                Some(Some(page)) => page?,
                Some(None) => break true,
                None => break false,
            };
            // Each row has its own task, so that a panic does not cancel another row's save.
            let rows = stream::iter(page).map(|row| {
                let key = row.as_ref().map_or_else(|malformed| &malformed.key, |row| &row.key).clone();
                let verify = verify(services.clone(), source.clone(), refresher.clone(), deadline, row);
                let task = tokio::spawn(verify.in_current_span());
                task.unwrap_or_else(|_| {
                    let message = "the verification panicked; this is a bug in the function";
                    VerifyReport::failed(key, Reason::InternalError.as_str(), message.into(), None)
                })
            });
            let mut reports = rows.buffer_unordered(services.settings.max_concurrency);
            while let Some(report) = reports.next().await {
                log(&report);
                results.record(report);
            }
        };
        if !results.is_complete() {
            warn!(deferred = results.counts.deferred, "the time ran out before every row was read and done");
        }
        Ok::<_, VerifyError>(results)
    };
    let results = verify_all.instrument(span).await?;
    Ok(VerifyResponse::new(run_id, selection, results))
}

async fn verify(
    services: Arc<Services>,
    source: TokenSource,
    refresher: Arc<Refresher>,
    deadline: DateTime<Utc>,
    row: Result<Candidate, MalformedRow>,
) -> VerifyReport {
    let row = match row {
        Ok(row) => row,
        Err(malformed) => {
            let (reason, message) = (Reason::MalformedRow.as_str(), malformed.to_string());
            return VerifyReport::failed(malformed.key, reason, message, None);
        }
    };
    if row.status != Status::Active {
        return VerifyReport::skipped(row.key, row.status.as_str()).of_seller(row.seller_name);
    }
    let (key, seller_name) = (row.key, row.seller_name);
    let verify = async {
        let called = source
            .call(&key, |app, token| {
                let (services, refresher) = (services.clone(), refresher.clone());
                async move {
                    let shops = refresher.get_authorized_shops(&app, &token);
                    services.by(last_read(deadline), shops).await.transpose()
                }
            })
            .await?;
        // The time is up.
        let Some(shops) = called.value else { return Err(TokenError::OutOfTime) };
        if shops != called.row.authorized_shops {
            let authorization_id = called.row.authorization_id.as_deref();
            let store = shops::store(&services, &key, &called.token, authorization_id, &shops);
            services.by(last_read(deadline), store).await;
        }
        Ok((shops, called.was_refreshed))
    };
    let report = match verify.instrument(key.span()).await {
        Ok((shops, was_refreshed)) => {
            VerifyReport::valid(key, was_refreshed, shops.into_iter().map(|shop| shop.id))
        }
        Err(TokenError::OutOfTime) => VerifyReport::deferred(key),
        Err(TokenError::NoToken { reason, message, code, .. }) => {
            VerifyReport::failed(key, &reason, message, code)
        }
        Err(TokenError::Call(error)) => {
            VerifyReport::failed(key, error.reason().as_str(), error.to_string(), error.code())
        }
    };
    report.of_seller(seller_name)
}

fn log(report: &VerifyReport) {
    let _span = report.key.span().entered();
    let (outcome, reason) = (report.outcome, report.reason.as_deref());
    let why = report.message.as_deref().unwrap_or_default();
    match outcome {
        "failed" => error!(outcome, reason, "TikTok access token verification failed: {why}"),
        "deferred" => debug!(outcome, reason, "TikTok access token verification deferred: {why}"),
        "skipped" => info!(outcome, reason, "TikTok access token verification skipped: {why}"),
        _ => info!(outcome, "TikTok access token verified"),
    }
}
