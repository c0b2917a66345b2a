//! Which integrations a run covers, and who asked for it.

use crate::domain::integration::IntegrationKey;

/// What a refresh covers and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshRequest {
    /// Which integrations.
    pub selection: Selection,
    /// Takes tokens that are not due, and rows marked `error`.
    pub force: bool,
    /// Says what would be done; calls nobody and writes nothing.
    pub dry_run: bool,
    /// Who asked.
    pub trigger: Trigger,
}

/// Which integrations a request covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The whole table.
    All,
    /// One team's.
    Team(String),
    /// Just one.
    One(IntegrationKey),
}

impl Selection {
    /// The team that the request named, if it did.
    pub fn team_id(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Team(team_id) => Some(team_id),
            Self::One(key) => Some(&key.team_id),
        }
    }
}

/// Who asked for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A person or a program, by an invocation.
    Manual,
    /// EventBridge.
    Schedule,
    /// The function's own queue.
    Queue,
}

impl Trigger {
    /// The name used in answers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Schedule => "schedule",
            Self::Queue => "queue",
        }
    }
}

/// What a clean-up covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanupRequest {
    /// Which integrations.
    pub selection: Selection,
    /// Says what would be marked; writes nothing.
    pub dry_run: bool,
}
