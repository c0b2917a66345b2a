//! What the function answers. No answer ever holds a token or a secret.

mod cleanup;
mod connect;
mod refresh;
mod verify;

pub use cleanup::{CleanedUp, CleanupAnswer, CleanupCounts, CleanupTally};
pub use connect::ConnectAnswer;
pub use refresh::{RefreshAnswer, Tally};
pub use verify::{VerifyAnswer, VerifyCounts, VerifyReport, VerifyTally};

use crate::status_report::StatusReport;
use serde::Serialize;

/// Any answer of the function's.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To a refresh.
    Refresh(Box<RefreshAnswer>),
    /// To messages of the queue.
    Queue(QueueAnswer),
    /// To a status report.
    Status(Box<StatusReport>),
    /// To a status report for a person.
    Text(String),
    /// To a clean-up.
    Cleanup(Box<CleanupAnswer>),
    /// To a connection.
    Connect(Box<ConnectAnswer>),
    /// To a verification.
    Verify(Box<VerifyAnswer>),
}

/// The answer to messages of the queue: which of them SQS is to deliver again.
/// <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueAnswer {
    /// The messages that could not be done.
    pub batch_item_failures: Vec<BatchItemFailure>,
}

/// A message that could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchItemFailure {
    /// The message's id.
    pub item_identifier: String,
}
