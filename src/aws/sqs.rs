//! SQS: the messages that the function sends itself. What may be in them is `message`'s to say.

use crate::aws::AwsError;
use aws_sdk_sqs::{Client, types::SendMessageBatchRequestEntry};
use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::{StreamExt, stream};
use std::time::Duration;
use tracing::warn;
use url::Url;

/// SQS's limit on the messages of one request.
const MESSAGES_IN_A_BATCH: usize = 10;
/// A little less than the 262,144 bytes that SQS has always taken in one request.
const BYTES_IN_A_BATCH: usize = 250_000;
/// How many batches are under way at once.
const BATCHES_AT_ONCE: usize = 8;

/// The function's own queue.
#[derive(Clone, Debug)]
pub struct Queue {
    client: Client,
    url: String,
}

/// SQS would not take a message. The text is its own word, never the message's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the work queue would not take a message ({0}): check WORK_QUEUE_URL, and allow sqs:SendMessage on it"
)]
pub struct QueueError(String);

impl Queue {
    /// The queue at `url`.
    pub fn new(client: Client, url: &Url) -> Self {
        Self { client, url: url.to_string() }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`QueueError`]; the message may then have been taken all the same.
    pub async fn send(&self, message: &str) -> Result<(), QueueError> {
        let send = self.client.send_message().queue_url(&self.url).message_body(message);
        send.send().await.map(drop).map_err(|error| QueueError(AwsError::of(&error).to_string()))
    }

    /// Sends many messages, in batches side by side. Answers the places of those that SQS would not take.
    pub async fn send_all(&self, messages: Vec<String>) -> Vec<usize> {
        let batches = stream::iter(batches(messages)).map(|batch| self.send_batch(batch));
        batches.buffer_unordered(BATCHES_AT_ONCE).concat().await
    }

    /// Sends one batch. SQS takes or refuses each of its messages by itself; the refused ones are sent again.
    async fn send_batch(&self, mut left: Vec<(usize, String)>) -> Vec<usize> {
        let backoff = ExponentialBuilder::new().with_min_delay(Duration::from_millis(100)).with_jitter();
        let mut waits = backoff.with_max_times(3).build();
        loop {
            match self.try_batch(&left).await {
                Ok(refused) => left.retain(|(n, _)| refused.contains(n)),
                Err(error) => warn!("{error}"),
            }
            let wait = if left.is_empty() { None } else { waits.next() };
            let Some(wait) = wait else { return left.into_iter().map(|(n, _)| n).collect() };
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends messages once; answers which of them SQS refused.
    async fn try_batch(&self, messages: &[(usize, String)]) -> Result<Vec<usize>, QueueError> {
        let mut batch = self.client.send_message_batch().queue_url(&self.url);
        for (n, message) in messages {
            let entry = SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(message);
            batch = batch.entries(entry.build().map_err(|error| QueueError(error.to_string()))?);
        }
        let answer = batch.send().await.map_err(|error| QueueError(AwsError::of(&error).to_string()))?;
        if let Some(entry) = answer.failed().first() {
            warn!("{}", QueueError(entry.code().to_owned()));
        }
        Ok(answer.failed().iter().filter_map(|entry| entry.id().parse().ok()).collect())
    }
}

/// Messages with their places, in batches that SQS takes.
fn batches(messages: Vec<String>) -> Vec<Vec<(usize, String)>> {
    let mut batches: Vec<Vec<(usize, String)>> = Vec::new();
    let mut bytes = 0;
    for (n, message) in messages.into_iter().enumerate() {
        bytes += message.len();
        match batches.last_mut() {
            Some(batch) if bytes <= BYTES_IN_A_BATCH && batch.len() < MESSAGES_IN_A_BATCH => {
                batch.push((n, message));
            }
            _ => {
                bytes = message.len();
                batches.push(vec![(n, message)]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_to_the_limits_of_sqs_and_lose_nothing() {
        for size in [10, 30_000, 140_000, 240_000] {
            let batches = batches(vec!["x".repeat(size); 57]);
            assert!(batches.iter().all(|batch| (1..=MESSAGES_IN_A_BATCH).contains(&batch.len())));
            assert!(batches.iter().all(|batch| batch.len() * size <= BYTES_IN_A_BATCH), "{size}");
            assert_eq!(
                batches.concat().iter().map(|(n, _)| *n).collect::<Vec<_>>(),
                (0..57).collect::<Vec<_>>()
            );
        }
    }
}
