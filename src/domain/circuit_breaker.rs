//! When to stop asking TikTok for an app. Pure: results in, a verdict out; one [`Breaker`] for each app and run.

/// Refused credentials in a row that stop an app.
const MISCONFIGURED_LIMIT: u32 = 3;
/// Rejected sellers without one success that stop an app: likelier the app's key changed than that all left.
const MASS_REJECTION_LIMIT: u32 = 5;
/// Failures in a row that stop an app: the provider is down.
const PROVIDER_DOWN_LIMIT: u32 = 20;

/// What a call to TikTok says of the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A token was granted: key and provider are fine.
    Granted,
    /// TikTok said that this seller must connect again.
    Rejected,
    /// TikTok refused the app's own credentials or address.
    Misconfigured,
    /// Anything else that did not work.
    Failed,
}

/// Why an app was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// TikTok refuses the app's credentials.
    Misconfigured,
    /// TikTok rejects every seller.
    MassRejection,
    /// TikTok does not answer as it should.
    ProviderDown,
}

impl Stop {
    /// The `reason` of what is deferred for it.
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
pub struct Breaker {
    granted: u32,
    rejected: u32,
    misconfigured: u32,
    misconfigured_in_a_row: u32,
    failed_in_a_row: u32,
    stopped: Option<Stop>,
}

impl Breaker {
    /// Takes a call's result into account.
    pub fn saw(&mut self, sign: Sign) {
        match sign {
            Sign::Granted => {
                self.granted += 1;
                self.misconfigured_in_a_row = 0;
                self.failed_in_a_row = 0;
            }
            Sign::Rejected => {
                self.rejected += 1;
                self.failed_in_a_row = 0;
            }
            Sign::Misconfigured => {
                self.misconfigured += 1;
                self.misconfigured_in_a_row += 1;
                self.failed_in_a_row = 0;
            }
            Sign::Failed => self.failed_in_a_row += 1,
        }
        let stop = if self.misconfigured_in_a_row >= MISCONFIGURED_LIMIT {
            Some(Stop::Misconfigured)
        } else if self.granted == 0 && self.rejected >= MASS_REJECTION_LIMIT {
            Some(Stop::MassRejection)
        } else if self.failed_in_a_row >= PROVIDER_DOWN_LIMIT {
            Some(Stop::ProviderDown)
        } else {
            None
        };
        // Once stopped, stopped for this run: a late success does not start it again.
        self.stopped = self.stopped.or(stop);
    }

    /// Why the app is not to be asked any more in this run, if so.
    pub fn stopped(&self) -> Option<Stop> {
        self.stopped
    }

    /// Whether one success has proved the app's key, so that a rejected seller may be marked at once.
    pub fn key_is_proved(&self) -> bool {
        self.granted > 0
    }

    /// At the end of the run: whether rejected sellers may be marked. Not when all of them were rejected, nor
    /// when the app itself was refused.
    pub fn may_mark_at_the_end(&self) -> bool {
        self.key_is_proved() || (self.rejected < MASS_REJECTION_LIMIT && self.misconfigured == 0)
    }

    /// At the end of the run: why the run failed for this app as a whole, if it did. Refused credentials that
    /// nothing contradicted are one reason, even if there were too few integrations to stop at.
    pub fn failure(&self) -> Option<Stop> {
        let refused = self.misconfigured > 0 && !self.key_is_proved();
        match self.stopped {
            Some(Stop::Misconfigured) => Some(Stop::Misconfigured),
            Some(Stop::MassRejection) if !self.key_is_proved() => Some(Stop::MassRejection),
            Some(Stop::MassRejection | Stop::ProviderDown) | None => refused.then_some(Stop::Misconfigured),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(signs: &[(Sign, u32)]) -> Breaker {
        let mut breaker = Breaker::default();
        for (sign, times) in signs {
            (0..*times).for_each(|_| breaker.saw(*sign));
        }
        breaker
    }

    #[test]
    fn three_refusals_of_the_app_in_a_row_stop_it_and_fail_the_run() {
        assert_eq!(after(&[(Sign::Misconfigured, 2)]).stopped(), None);
        let breaker = after(&[(Sign::Misconfigured, 3)]);
        assert_eq!(
            (breaker.stopped(), breaker.failure()),
            (Some(Stop::Misconfigured), Some(Stop::Misconfigured))
        );
    }

    #[test]
    fn too_few_integrations_to_stop_at_still_fail_the_run_when_the_app_is_refused() {
        assert_eq!(after(&[(Sign::Misconfigured, 1)]).failure(), Some(Stop::Misconfigured));
        assert_eq!(after(&[(Sign::Granted, 1), (Sign::Misconfigured, 1)]).failure(), None);
    }

    #[test]
    fn five_rejections_without_a_success_mark_nobody() {
        let four = after(&[(Sign::Rejected, 4)]);
        assert!(four.stopped().is_none() && four.may_mark_at_the_end() && four.failure().is_none());
        let five = after(&[(Sign::Rejected, 5)]);
        assert_eq!((five.stopped(), five.failure()), (Some(Stop::MassRejection), Some(Stop::MassRejection)));
        assert!(!five.may_mark_at_the_end());
    }

    #[test]
    fn one_success_proves_the_key_whenever_it_comes() {
        let before = after(&[(Sign::Granted, 1), (Sign::Rejected, 50)]);
        assert!(before.stopped().is_none() && before.may_mark_at_the_end());
        // Still in flight when the breaker opened.
        let late = after(&[(Sign::Rejected, 5), (Sign::Granted, 1)]);
        assert!(late.may_mark_at_the_end() && late.failure().is_none());
    }

    #[test]
    fn a_refused_app_lets_nobody_be_marked() {
        assert!(!after(&[(Sign::Rejected, 1), (Sign::Misconfigured, 1)]).may_mark_at_the_end());
    }

    #[test]
    fn twenty_failures_in_a_row_stop_the_app_but_do_not_fail_the_run() {
        assert_eq!(after(&[(Sign::Failed, 19), (Sign::Granted, 1), (Sign::Failed, 19)]).stopped(), None);
        let breaker = after(&[(Sign::Failed, 20)]);
        assert_eq!((breaker.stopped(), breaker.failure()), (Some(Stop::ProviderDown), None));
    }
}
