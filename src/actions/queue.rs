//! The messages of the function's own queue: each is done, or left to SQS to deliver again.

use crate::{
    domain::{
        integration::Rule,
        message::{self, Message, Rescue},
    },
    event::QueueRecord,
    response::{BatchItemFailure, QueueAnswer},
    run::work_off,
    services::Services,
};
use chrono::{DateTime, Utc};
use tracing::{error, info};

/// Does what the messages say, one after the other, by `deadline`.
pub async fn run(services: &Services, records: Vec<QueueRecord>, deadline: DateTime<Utc>) -> QueueAnswer {
    let mut answer = QueueAnswer::default();
    for record in records {
        let is_done = match message::parse(&record.body) {
            Ok(Message::Work(work)) => work_off(services, work, deadline).await,
            Ok(Message::Rescue(rescue)) => save(services, *rescue, deadline).await,
            Err(bad) => {
                // It ends in the dead-letter queue. Of a rescue at least the integration is told.
                let key = message::key_of(&record.body);
                error!(
                    message_id = record.message_id,
                    team_id = key.as_ref().map(|key| &*key.team_id),
                    integration_id = key.as_ref().map(|key| &*key.integration_id),
                    "a message of the queue could not be read: {bad}",
                );
                false
            }
        };
        if !is_done {
            answer.batch_item_failures.push(BatchItemFailure { item_identifier: record.message_id });
        }
    }
    answer
}

/// Saves a pair that the table would not take before. Needs no credentials: TikTok is not asked.
async fn save(services: &Services, rescue: Rescue, deadline: DateTime<Utc>) -> bool {
    let rule = Rule {
        now: services.clock.now(),
        refresh_ahead: services.settings.refresh_ahead,
        force: false,
        unless_refreshed_since: None,
    };
    let run_id = uuid::Uuid::new_v4().to_string();
    let refresher = services.refresher(&run_id, std::sync::Arc::default(), deadline, &rule);
    let key = rescue.key.clone();
    match refresher.save_rescued(rescue).await {
        Ok(report) => {
            info!(
                run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                outcome = report.outcome.as_str(),
                reason = report.reason,
                "a pair that waited in the queue was put away",
            );
            true
        }
        Err(report) => {
            let why = report.message.as_deref().unwrap_or_default();
            error!(
                run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "a pair goes on waiting in the queue: {why}",
            );
            false
        }
    }
}
