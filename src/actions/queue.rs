//! Processes the messages of the function's own queue. A message that cannot be finished is left for SQS to deliver again.

use crate::{
    domain::{
        message::{self, Message, Rescue},
        reason::Reason,
    },
    event::QueueRecord,
    refresh::{Refresher, RunContext},
    run::process_message,
    services::Services,
};
use aws_lambda_events::sqs::SqsBatchResponse;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use tracing::{Instrument, error, error_span, info};

/// Processes the messages one after the other, by `deadline`. Returns those that SQS must deliver again.
pub(crate) async fn run(
    services: &Arc<Services>,
    records: Vec<QueueRecord>,
    deadline: DateTime<Utc>,
) -> SqsBatchResponse {
    let mut response = SqsBatchResponse::default();
    for record in records {
        let is_done = match message::parse(&record.body) {
            Ok(Message::Work(work)) => process_message(services, work, deadline).await,
            Ok(Message::Rescue(rescue)) => save(services, *rescue, deadline).await,
            Err(invalid) => {
                // The message ends in the dead-letter queue. If it is a rescue message, log at least its integration.
                let key = message::key_of(&record.body);
                error!(
                    message_id = record.message_id,
                    team_id = key.as_ref().map(|key| key.team_id.as_str()),
                    integration_id = key.as_ref().map(|key| key.integration_id.as_str()),
                    "could not read a message of the queue: {invalid}",
                );
                false
            }
        };
        if !is_done {
            response.add_failure(record.message_id);
        }
    }
    response
}

/// Saves a token pair that DynamoDB did not accept before. Needs no app credentials, because it does not call TikTok.
async fn save(services: &Arc<Services>, rescue: Rescue, deadline: DateTime<Utc>) -> bool {
    let run_id = uuid::Uuid::new_v4().to_string();
    let span = error_span!(
        "rescue",
        run_id,
        team_id = rescue.key.team_id,
        integration_id = rescue.key.integration_id
    );
    let apps = Arc::default();
    let run = RunContext { run_id, deadline, force: false, unless_refreshed_since: None, apps };
    let refresher = Refresher::new(services.clone(), run);
    let save = async {
        match refresher.save_rescued(rescue).await {
            Ok(report) => {
                let (outcome, reason) = (report.outcome.as_str(), report.reason.map(Reason::as_str));
                info!(outcome, reason, "saved a token pair from the rescue queue");
                true
            }
            Err(report) => {
                let why = report.message.as_deref().unwrap_or_default();
                error!("could not save a token pair from the rescue queue, which keeps it: {why}");
                false
            }
        }
    };
    save.instrument(span).await
}
