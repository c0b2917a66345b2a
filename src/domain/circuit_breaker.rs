//! When to stop calling TikTok for an app. Pure: results go in, a decision comes out. One [`CircuitBreaker`] for each app and
//! run.

/// Refused credentials in a row that stop an app.
const MISCONFIGURED_LIMIT: u32 = 3;
/// Rejected sellers without one success that stop an app: more likely the app's key changed than that all sellers left.
const MASS_REJECTION_LIMIT: u32 = 5;
/// Failures in a row that stop an app: the provider is down.
const PROVIDER_DOWN_LIMIT: u32 = 20;

/// What a call to TikTok says of the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// TikTok granted a token: the credentials and the provider are fine.
    Granted,
    /// TikTok rejected the seller's refresh token.
    Rejected,
    /// TikTok refused the app's own credentials or address.
    Misconfigured,
    /// Any other failure.
    Failed,
}

/// Why a circuit breaker tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TripReason {
    /// TikTok refuses the app's credentials.
    Misconfigured,
    /// TikTok rejects every seller.
    MassRejection,
    /// TikTok does not answer as it should.
    ProviderDown,
}

impl TripReason {
    /// The `reason` of the integrations that are deferred for it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Misconfigured => "misconfigured",
            Self::MassRejection => "mass_rejection",
            Self::ProviderDown => "provider_down",
        }
    }
}

/// One app's record within one run.
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
        // It stays tripped for the rest of the run: a late success does not close it.
        self.tripped = self.tripped.or(reason);
    }

    /// Why the app must not be called any more in this run, if so.
    pub fn tripped(&self) -> Option<TripReason> {
        self.tripped
    }

    /// Whether a success has proved the app's key, so that a rejected seller may be marked at once.
    pub fn key_is_proved(&self) -> bool {
        self.granted > 0
    }

    /// Whether rejected sellers may be marked at the end of the run. Not when all of them were rejected, nor when the app
    /// itself was refused.
    pub fn may_mark_at_the_end(&self) -> bool {
        self.key_is_proved() || (self.rejected < MASS_REJECTION_LIMIT && self.misconfigured == 0)
    }

    /// Why the run failed for this app as a whole, if it did. Refused credentials without one success are a reason, even if
    /// there were too few integrations to trip on.
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
    fn three_refusals_of_the_app_in_a_row_stop_it_and_fail_the_run() {
        assert_eq!(after(&[(CallOutcome::Misconfigured, 2)]).tripped(), None);
        let breaker = after(&[(CallOutcome::Misconfigured, 3)]);
        assert_eq!(
            (breaker.tripped(), breaker.failure()),
            (Some(TripReason::Misconfigured), Some(TripReason::Misconfigured))
        );
    }

    #[test]
    fn too_few_integrations_to_stop_at_still_fail_the_run_when_the_app_is_refused() {
        assert_eq!(after(&[(CallOutcome::Misconfigured, 1)]).failure(), Some(TripReason::Misconfigured));
        assert_eq!(after(&[(CallOutcome::Granted, 1), (CallOutcome::Misconfigured, 1)]).failure(), None);
    }

    #[test]
    fn five_rejections_without_a_success_mark_nobody() {
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
    fn one_success_proves_the_key_whenever_it_comes() {
        let before = after(&[(CallOutcome::Granted, 1), (CallOutcome::Rejected, 50)]);
        assert!(before.tripped().is_none() && before.may_mark_at_the_end());
        // Still in flight when the breaker opened.
        let late = after(&[(CallOutcome::Rejected, 5), (CallOutcome::Granted, 1)]);
        assert!(late.may_mark_at_the_end() && late.failure().is_none());
    }

    #[test]
    fn a_refused_app_lets_nobody_be_marked() {
        assert!(!after(&[(CallOutcome::Rejected, 1), (CallOutcome::Misconfigured, 1)]).may_mark_at_the_end());
    }

    #[test]
    fn twenty_failures_in_a_row_stop_the_app_but_do_not_fail_the_run() {
        assert_eq!(
            after(&[(CallOutcome::Failed, 19), (CallOutcome::Granted, 1), (CallOutcome::Failed, 19)])
                .tripped(),
            None
        );
        let breaker = after(&[(CallOutcome::Failed, 20)]);
        assert_eq!((breaker.tripped(), breaker.failure()), (Some(TripReason::ProviderDown), None));
    }
}
