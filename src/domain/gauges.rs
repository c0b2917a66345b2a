//! Gauges of the whole table, which a run records row by row without keeping any row.

use crate::domain::due::{AccessState, DuePolicy, Health};
use crate::domain::integration::{Candidate, Status};
use chrono::TimeDelta;

/// A run counts the refresh tokens that expire within this time, and logs a warning for each.
pub const REFRESH_TOKEN_WARNING: TimeDelta = TimeDelta::days(7);

/// The gauges of the whole table after a scheduled run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Seconds until the first plausible expiry among the access tokens of active integrations; negative if it has passed.
    pub soonest_access_token_expiry: Option<i64>,
    /// How many active integrations have an access token that counts as expired.
    pub expired_access_tokens: u64,
    /// How many active integrations have a refresh token that expires within 7 days.
    pub refresh_tokens_expiring_in_7_days: u64,
}

/// Records the gauges during a run.
#[derive(Debug)]
pub struct GaugeRecorder {
    policy: DuePolicy,
    /// The gauges so far.
    pub gauges: Gauges,
}

impl GaugeRecorder {
    /// A recorder that uses the policy of its run.
    pub fn new(policy: DuePolicy) -> Self {
        Self { policy, gauges: Gauges::default() }
    }

    /// Records an integration in its state after the refresh. Ignores integrations that cannot be refreshed, which have their own
    /// metric.
    pub fn record(&mut self, candidate: &Candidate) {
        if candidate.status != Status::Active || candidate.health(&self.policy) == Health::CannotRefresh {
            return;
        }
        if candidate.access_state(self.policy.now) == AccessState::Expired {
            self.gauges.expired_access_tokens += 1;
        }
        if candidate.has_plausible_expiry(&self.policy) {
            let seconds = candidate.access_expires_at.map(|at| at.seconds_from(self.policy.now));
            let soonest = [self.gauges.soonest_access_token_expiry, seconds].into_iter().flatten().min();
            self.gauges.soonest_access_token_expiry = soonest;
        }
        if candidate
            .known_refresh_expiry()
            .is_some_and(|at| at.is_within(REFRESH_TOKEN_WARNING, self.policy.now))
        {
            self.gauges.refresh_tokens_expiring_in_7_days += 1;
        }
    }
}
