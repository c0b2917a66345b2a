//! Decides when a run stops calling TikTok for an app. Each app has one [`CircuitBreaker`] in each run.

use crate::domain::reason::Reason;

/// How many consecutive calls with refused credentials trip the breaker.
const MISCONFIGURED_LIMIT: u32 = 3;
/// How many rejected sellers trip the breaker if no call has succeeded. Then a wrong app key is more likely than that all these
/// sellers have left.
const MASS_REJECTION_LIMIT: u32 = 5;
/// How many consecutive failures trip the breaker.
const PROVIDER_DOWN_LIMIT: u32 = 20;

/// What the result of a call to TikTok says about the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// TikTok granted a token pair: the app's credentials are valid and TikTok is up.
    Granted,
    /// TikTok rejected the seller's refresh token.
    Rejected,
    /// TikTok refused the app's credentials or IP address.
    Misconfigured,
    /// TikTok limits the rate of requests. It is up, and its answer says nothing about the app or the seller.
    Busy,
    /// Any other failure.
    Failed,
}

/// Why a breaker tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TripReason {
    /// TikTok refuses the app's credentials.
    Misconfigured,
    /// TikTok rejects every seller.
    MassRejection,
    /// TikTok is down.
    ProviderDown,
}

impl TripReason {
    /// The `reason` of the integrations that the breaker defers.
    pub fn reason(self) -> Reason {
        match self {
            Self::Misconfigured => Reason::Misconfigured,
            Self::MassRejection => Reason::MassRejection,
            Self::ProviderDown => Reason::ProviderDown,
        }
    }
}

/// The results of one app's calls in one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct CircuitBreaker {
    /// Whether a grant or another call has proved the app's credentials.
    is_proved: bool,
    rejected: u32,
    misconfigured: u32,
    misconfigured_in_a_row: u32,
    failed_in_a_row: u32,
    tripped: Option<TripReason>,
}

impl CircuitBreaker {
    /// Records the result of a call.
    pub fn record(&mut self, call: CallOutcome) {
        match call {
            CallOutcome::Granted => {
                self.is_proved = true;
                self.misconfigured_in_a_row = 0;
                self.failed_in_a_row = 0;
            }
            CallOutcome::Rejected => {
                self.rejected += 1;
                self.failed_in_a_row = 0;
            }
            CallOutcome::Misconfigured => {
                self.misconfigured += 1;
                self.misconfigured_in_a_row += 1;
                self.failed_in_a_row = 0;
            }
            CallOutcome::Busy => {}
            CallOutcome::Failed => self.failed_in_a_row += 1,
        }
        let reason = if self.misconfigured_in_a_row >= MISCONFIGURED_LIMIT {
            Some(TripReason::Misconfigured)
        } else if self.failed_in_a_row >= PROVIDER_DOWN_LIMIT {
            Some(TripReason::ProviderDown)
        } else {
            None
        };
        // A breaker that is stored here stays tripped for the rest of the run. A mass rejection is not stored, because proof ends
        // it.
        self.tripped = self.tripped.or(reason);
    }

    /// Records proof of the app's credentials.
    pub fn prove(&mut self) {
        self.is_proved = true;
    }

    /// Whether a grant or another call has proved the app's credentials.
    pub fn is_proved(&self) -> bool {
        self.is_proved
    }

    /// Records that TikTok refused the app's credentials in a call other than a refresh.
    pub fn disprove(&mut self) {
        self.tripped = Some(TripReason::Misconfigured);
    }

    /// Why the breaker has tripped, if it has.
    pub fn tripped(&self) -> Option<TripReason> {
        self.tripped.or_else(|| self.has_mass_rejection().then_some(TripReason::MassRejection))
    }

    /// Whether so many sellers were rejected, without proof of the credentials, that wrong credentials are the likely cause.
    pub fn has_mass_rejection(&self) -> bool {
        !self.is_proved && self.rejected >= MASS_REJECTION_LIMIT
    }

    /// Whether TikTok refused the app and nothing contradicts it. This fails the run even if too few calls were made to trip the
    /// breaker.
    pub fn is_refused(&self) -> bool {
        self.tripped == Some(TripReason::Misconfigured) || (self.misconfigured > 0 && !self.is_proved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(calls: &[(CallOutcome, u32)]) -> CircuitBreaker {
        let mut breaker = CircuitBreaker::default();
        for (call, times) in calls {
            (0..*times).for_each(|_| breaker.record(*call));
        }
        breaker
    }

    #[test]
    fn three_consecutive_refusals_of_the_app_trip_the_breaker_and_fail_the_run() {
        assert_eq!(after(&[(CallOutcome::Misconfigured, 2)]).tripped(), None);
        let breaker = after(&[(CallOutcome::Misconfigured, 3)]);
        assert_eq!((breaker.tripped(), breaker.is_refused()), (Some(TripReason::Misconfigured), true));
    }

    #[test]
    fn a_refused_app_without_a_success_fails_the_run_before_the_breaker_trips() {
        assert!(after(&[(CallOutcome::Misconfigured, 1)]).is_refused());
        assert!(!after(&[(CallOutcome::Granted, 1), (CallOutcome::Misconfigured, 1)]).is_refused());
    }

    #[test]
    fn five_rejections_without_proof_trip_the_breaker() {
        assert_eq!(after(&[(CallOutcome::Rejected, 4)]).tripped(), None);
        let mut five = after(&[(CallOutcome::Rejected, 5)]);
        assert_eq!((five.tripped(), five.is_refused()), (Some(TripReason::MassRejection), false));
        five.prove();
        assert_eq!(five.tripped(), None, "a witness has proved the credentials");
    }

    #[test]
    fn one_success_at_any_time_proves_the_credentials() {
        assert_eq!(after(&[(CallOutcome::Granted, 1), (CallOutcome::Rejected, 50)]).tripped(), None);
        // Still in flight when the fifth was rejected.
        assert_eq!(after(&[(CallOutcome::Rejected, 5), (CallOutcome::Granted, 1)]).tripped(), None);
    }

    #[test]
    fn disproved_credentials_trip_the_breaker_whatever_was_granted() {
        let mut breaker = after(&[(CallOutcome::Granted, 1)]);
        breaker.disprove();
        assert_eq!((breaker.tripped(), breaker.is_refused()), (Some(TripReason::Misconfigured), true));
    }

    #[test]
    fn twenty_consecutive_failures_trip_the_breaker_but_do_not_fail_the_run() {
        let recovered =
            after(&[(CallOutcome::Failed, 19), (CallOutcome::Granted, 1), (CallOutcome::Failed, 19)]);
        assert_eq!(recovered.tripped(), None);
        assert_eq!(after(&[(CallOutcome::Busy, 100)]).tripped(), None, "a busy TikTok is not down");
        let breaker = after(&[(CallOutcome::Failed, 19), (CallOutcome::Busy, 1), (CallOutcome::Failed, 1)]);
        assert_eq!((breaker.tripped(), breaker.is_refused()), (Some(TripReason::ProviderDown), false));
    }
}
