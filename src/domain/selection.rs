//! What a refresh or a clean-up covers, and what triggered it.

use crate::domain::integration::IntegrationKey;
use serde::Serialize;
use strum::IntoStaticStr;

/// A request to refresh integrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshRequest {
    /// The integrations to cover.
    pub selection: Selection,
    /// Whether to refresh tokens that are not due, and rows marked `error`.
    pub force: bool,
    /// Whether to report only what a run would do, without calling TikTok or writing to the table.
    pub dry_run: bool,
    /// What triggered the run.
    pub trigger: Trigger,
}

/// The integrations that a request covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The whole table.
    All,
    /// The integrations of one team.
    Team(String),
    /// One integration.
    One(IntegrationKey),
}

impl Selection {
    /// The team that the request names, if any.
    pub fn team_id(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Team(team_id) => Some(team_id),
            Self::One(key) => Some(&key.team_id),
        }
    }
}

/// What triggered a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum Trigger {
    /// A person or a program invoked the function.
    Manual,
    /// EventBridge invoked the function on its schedule.
    Schedule,
    /// SQS delivered a message of the function's own queue.
    Queue,
}

impl Trigger {
    /// The name in responses and logs.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A request to mark the integrations whose refresh token has expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanupRequest {
    /// The integrations to cover.
    pub selection: Selection,
    /// Whether to report only what would be marked, without writing to the table.
    pub dry_run: bool,
}
