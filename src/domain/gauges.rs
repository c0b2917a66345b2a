//! What a run learns of the whole table on its way, row by row and without keeping any.

use crate::domain::integration::{AccessState, Candidate, DuePolicy, Health, Status};
use chrono::TimeDelta;

/// How long before its expiry a refresh token is warned of.
pub const REFRESH_TOKEN_WARNING: TimeDelta = TimeDelta::days(7);

/// What the nightly run knows of the whole table, after its refreshes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Seconds until the first believable expiry of an active integration's access token; negative if passed.
    pub soonest_access_token_expiry: Option<i64>,
    /// Active integrations whose access token counts as expired.
    pub expired_access_tokens: u64,
    /// Active integrations whose refresh token expires within 7 days.
    pub refresh_tokens_expiring_in_7_days: u64,
}

/// What the run learns of the whole table on its way.
#[derive(Debug)]
pub struct GaugeRecorder {
    policy: DuePolicy,
    /// What it has learnt so far.
    pub gauges: Gauges,
}

impl GaugeRecorder {
    /// A census by the policy of its run.
    pub fn new(policy: DuePolicy) -> Self {
        Self { policy, gauges: Gauges::default() }
    }

    /// Counts an integration as it is after its refresh. Those that cannot be refreshed are counted elsewhere.
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
