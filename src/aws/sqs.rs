//! SQS: sends the messages of `domain::message` to the function's own queue.

use crate::aws::AwsError;
use aws_sdk_sqs::{Client, types::SendMessageBatchRequestEntry};
use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::{StreamExt, stream};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::warn;
use url::Url;

/// SQS's limit on the messages in one request.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
const MAX_BATCH_MESSAGES: usize = 10;
/// The maximum size of a batch, in bytes: a little less than 262,144, which SQS accepts in every Region.
const MAX_BATCH_BYTES: usize = 250_000;
/// How many batches are sent concurrently.
const CONCURRENT_BATCHES: usize = 8;

/// The function's own queue.
#[derive(Clone, Debug)]
pub struct Queue {
    client: Client,
    url: String,
}

/// SQS did not accept a message. The error never quotes the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue did not accept a message ({0}): check WORK_QUEUE_URL, and allow sqs:SendMessage on it")]
pub struct QueueError(String);

impl Queue {
    /// The queue at `url`.
    pub fn new(client: Client, url: &Url) -> Self {
        Self { client, url: url.to_string() }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`QueueError`]; SQS may have accepted the message all the same.
    pub async fn send(&self, message: &str) -> Result<(), QueueError> {
        let send = self.client.send_message().queue_url(&self.url).message_body(message);
        send.send().await.map(drop).map_err(|error| QueueError(AwsError::of(&error).to_string()))
    }

    /// Sends messages in concurrent batches, and takes at most `limit` for all. Returns the indices of the messages that SQS did
    /// not accept.
    pub async fn send_all(&self, messages: Vec<String>, limit: Duration) -> Vec<usize> {
        let end = Instant::now() + limit;
        let batches = stream::iter(batches(messages)).map(|batch| self.send_batch(batch, end));
        batches.buffer_unordered(CONCURRENT_BATCHES).concat().await
    }

    /// Sends one batch. SQS accepts or refuses each message separately; the refused ones are retried. Returns the indices of
    /// those that SQS did not accept.
    async fn send_batch(&self, mut pending: Vec<(usize, String)>, end: Instant) -> Vec<usize> {
        let backoff = ExponentialBuilder::new().with_min_delay(Duration::from_millis(100)).with_jitter();
        let mut waits = backoff.with_max_times(3).build();
        loop {
            let out_of_time = |_| Err(QueueError("no response, and the invocation's time runs out".into()));
            match timeout_at(end, self.try_batch(&pending)).await.unwrap_or_else(out_of_time) {
                Ok(refused) => pending.retain(|(index, _)| refused.contains(index)),
                Err(error) => warn!("{error}"),
            }
            let wait = if pending.is_empty() { None } else { waits.next() };
            let wait = wait.filter(|wait| Instant::now() + *wait < end);
            let Some(wait) = wait else { return pending.into_iter().map(|(index, _)| index).collect() };
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends a batch once. Returns the indices of the messages that SQS refused.
    async fn try_batch(&self, messages: &[(usize, String)]) -> Result<Vec<usize>, QueueError> {
        let mut batch = self.client.send_message_batch().queue_url(&self.url);
        for (index, message) in messages {
            let entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(message);
            batch = batch.entries(entry.build().map_err(|error| QueueError(error.to_string()))?);
        }
        let response = batch.send().await.map_err(|error| QueueError(AwsError::of(&error).to_string()))?;
        if let Some(entry) = response.failed().first() {
            warn!("{}", QueueError(entry.code().to_owned()));
        }
        Ok(response.failed().iter().filter_map(|entry| entry.id().parse().ok()).collect())
    }
}

/// Splits messages, paired with their indices, into batches within SQS's limits.
fn batches(messages: Vec<String>) -> Vec<Vec<(usize, String)>> {
    let mut batches: Vec<Vec<(usize, String)>> = Vec::new();
    let mut bytes = 0;
    for (index, message) in messages.into_iter().enumerate() {
        bytes += message.len();
        match batches.last_mut() {
            Some(batch) if bytes <= MAX_BATCH_BYTES && batch.len() < MAX_BATCH_MESSAGES => {
                batch.push((index, message));
            }
            _ => {
                bytes = message.len();
                batches.push(vec![(index, message)]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stay_within_the_limits_of_sqs_and_lose_no_message() {
        for size in [10, 30_000, 140_000, 240_000] {
            let batches = batches(vec!["x".repeat(size); 57]);
            assert!(batches.iter().all(|batch| (1..=MAX_BATCH_MESSAGES).contains(&batch.len())));
            assert!(batches.iter().all(|batch| batch.len() * size <= MAX_BATCH_BYTES), "{size}");
            assert_eq!(
                batches.concat().iter().map(|(index, _)| *index).collect::<Vec<_>>(),
                (0..57).collect::<Vec<_>>()
            );
        }
    }
}
