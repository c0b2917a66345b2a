//! Decides when a run stops calling TikTok for an app. Each app has one [`CircuitBreaker`] in each run.

/// How many consecutive calls with refused credentials trip the breaker.
const MISCONFIGURED_LIMIT: u32 = 3;
/// How many rejected sellers trip the breaker if no call has succeeded. A wrong app key is then more likely than that all
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
    pub fn reason(self) -> &'static str {
        match self {
            Self::Misconfigured => "misconfigured",
            Self::MassRejection => "mass_rejection",
            Self::ProviderDown => "provider_down",
        }
    }
}

/// The results of one app's calls in one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct CircuitBreaker {
    granted: u32,
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
                self.granted += 1;
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
            CallOutcome::Failed => self.failed_in_a_row += 1,
        }
        let reason = if self.misconfigured_in_a_row >= MISCONFIGURED_LIMIT {
            Some(TripReason::Misconfigured)
        } else if self.granted == 0 && self.rejected >= MASS_REJECTION_LIMIT {
            Some(TripReason::MassRejection)
        } else if self.failed_in_a_row >= PROVIDER_DOWN_LIMIT {
            Some(TripReason::ProviderDown)
        } else {
            None
        };
        // It stays tripped for the rest of the run: a call in flight that succeeds does not reset it.
        self.tripped = self.tripped.or(reason);
    }

    /// Why the breaker has tripped, if it has.
    pub fn tripped(&self) -> Option<TripReason> {
        self.tripped
    }

    /// Whether a call has succeeded. The app's key is then valid, and a rejected seller may be marked at once.
    pub fn key_is_proved(&self) -> bool {
        self.granted > 0
    }

    /// Whether rejected sellers may be marked at the end of the run. Without a success, five rejections or one refusal of the
    /// app forbid it.
    pub fn may_mark_at_the_end(&self) -> bool {
        self.key_is_proved() || (self.rejected < MASS_REJECTION_LIMIT && self.misconfigured == 0)
    }

    /// Why the run failed for this app, if it did. Refused credentials without a success fail the run even if there were too
    /// few calls to trip the breaker.
    pub fn failure(&self) -> Option<TripReason> {
        let refused = self.misconfigured > 0 && !self.key_is_proved();
        match self.tripped {
            Some(TripReason::Misconfigured) => Some(TripReason::Misconfigured),
            Some(TripReason::MassRejection) if !self.key_is_proved() => Some(TripReason::MassRejection),
            Some(TripReason::MassRejection | TripReason::ProviderDown) | None => {
                refused.then_some(TripReason::Misconfigured)
            }
        }
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
        assert_eq!(
            (breaker.tripped(), breaker.failure()),
            (Some(TripReason::Misconfigured), Some(TripReason::Misconfigured))
        );
    }

    #[test]
    fn a_refused_app_without_a_success_fails_the_run_before_the_breaker_trips() {
        assert_eq!(after(&[(CallOutcome::Misconfigured, 1)]).failure(), Some(TripReason::Misconfigured));
        assert_eq!(after(&[(CallOutcome::Granted, 1), (CallOutcome::Misconfigured, 1)]).failure(), None);
    }

    #[test]
    fn five_rejections_without_a_success_trip_the_breaker_and_mark_nobody() {
        let four = after(&[(CallOutcome::Rejected, 4)]);
        assert!(four.tripped().is_none() && four.may_mark_at_the_end() && four.failure().is_none());
        let five = after(&[(CallOutcome::Rejected, 5)]);
        assert_eq!(
            (five.tripped(), five.failure()),
            (Some(TripReason::MassRejection), Some(TripReason::MassRejection))
        );
        assert!(!five.may_mark_at_the_end());
    }

    #[test]
    fn one_success_at_any_time_proves_the_key() {
        let before = after(&[(CallOutcome::Granted, 1), (CallOutcome::Rejected, 50)]);
        assert!(before.tripped().is_none() && before.may_mark_at_the_end());
        // This call was in flight when the breaker tripped.
        let late = after(&[(CallOutcome::Rejected, 5), (CallOutcome::Granted, 1)]);
        assert!(late.may_mark_at_the_end() && late.failure().is_none());
    }

    #[test]
    fn a_refused_app_without_a_success_marks_nobody() {
        assert!(!after(&[(CallOutcome::Rejected, 1), (CallOutcome::Misconfigured, 1)]).may_mark_at_the_end());
    }

    #[test]
    fn twenty_consecutive_failures_trip_the_breaker_but_do_not_fail_the_run() {
        assert_eq!(
            after(&[(CallOutcome::Failed, 19), (CallOutcome::Granted, 1), (CallOutcome::Failed, 19)])
                .tripped(),
            None
        );
        let breaker = after(&[(CallOutcome::Failed, 20)]);
        assert_eq!((breaker.tripped(), breaker.failure()), (Some(TripReason::ProviderDown), None));
    }
}
