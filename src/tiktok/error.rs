//! The errors of a call to TikTok, and what each means for the row, the app and the run.

use crate::domain::{circuit_breaker::CallOutcome, reason::Reason};
use std::time::Duration;
use url::form_urlencoded;

/// The maximum length of TikTok's message in an error, in characters.
const MAX_MESSAGE: usize = 200;

/// A failed call to TikTok. No variant holds a URL, a token or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There was no connection, so TikTok received no request.
    #[error("no connection to TikTok: {message}; no request was sent")]
    NotConnected {
        /// Why the connection failed.
        message: String,
    },
    /// TikTok does not act now: HTTP 429 or 503, or a code for it.
    #[error("TikTok is busy: {code} {message:?}")]
    Busy {
        /// TikTok's error code, or the HTTP status.
        code: i64,
        /// TikTok's message.
        message: String,
        /// The response's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// TikTok failed internally, and says so with a code of its own.
    #[error("TikTok has an internal error: {code} {message:?}")]
    ServerError {
        /// TikTok's error code, or the HTTP status.
        code: i64,
        /// TikTok's message.
        message: String,
    },
    /// The response was lost or is unreadable, or comes from a gateway that had none from TikTok. So TikTok may or may not have
    /// redeemed the token.
    #[error("no readable response: {message}; TikTok may or may not have acted")]
    Ambiguous {
        /// What is wrong with the response.
        message: String,
    },
    /// The seller's authorization has ended.
    #[error("the seller must connect again: TikTok responded with {code} {message:?}")]
    Reauthorize {
        /// TikTok's error code.
        code: i64,
        /// TikTok's message.
        message: String,
    },
    /// TikTok refuses the app's credentials or IP address.
    #[error(
        "TikTok refuses the app itself: {code} {message:?}; check the app key, the app secret and the app's IP allow list"
    )]
    Misconfigured {
        /// TikTok's error code, or the HTTP status.
        code: i64,
        /// TikTok's message.
        message: String,
    },
    /// Any other code.
    #[error("TikTok refused the request: {code} {message:?}")]
    Refused {
        /// TikTok's error code, or the HTTP status.
        code: i64,
        /// TikTok's message.
        message: String,
    },
}

impl CallError {
    /// TikTok's error code or the HTTP status, if TikTok responded.
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::NotConnected { .. } | Self::Ambiguous { .. } => None,
            Self::Busy { code, .. }
            | Self::ServerError { code, .. }
            | Self::Reauthorize { code, .. }
            | Self::Misconfigured { code, .. }
            | Self::Refused { code, .. } => Some(*code),
        }
    }

    /// The `reason` in the response, which is also the row's `error_reason`.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotConnected { .. } => Reason::NotConnected,
            Self::Busy { .. } => Reason::ProviderBusy,
            Self::ServerError { .. } => Reason::ProviderError,
            Self::Ambiguous { .. } => Reason::NoReadableAnswer,
            Self::Reauthorize { .. } => Reason::Reauthorize,
            Self::Misconfigured { .. } => Reason::Misconfigured,
            Self::Refused { .. } => Reason::Refused,
        }
    }

    /// Whether a retry is safe and may help: TikTok has not redeemed the token, and the cause may pass.
    pub fn may_be_retried(&self) -> bool {
        match self {
            Self::NotConnected { .. } | Self::Busy { .. } => true,
            Self::ServerError { .. }
            | Self::Ambiguous { .. }
            | Self::Reauthorize { .. }
            | Self::Misconfigured { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// Whether TikTok limits the rate of requests. HTTP 503 says only that TikTok does not act now.
    pub fn limits_the_rate(&self) -> bool {
        matches!(self, Self::Busy { code, .. } if *code != 503)
    }

    /// Whether the cause may pass by itself, whatever TikTok has done meanwhile.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NotConnected { .. }
            | Self::Busy { .. }
            | Self::ServerError { .. }
            | Self::Ambiguous { .. } => true,
            Self::Reauthorize { .. } | Self::Misconfigured { .. } | Self::Refused { .. } => false,
        }
    }

    /// What the error says about the app, for its circuit breaker.
    pub fn call_outcome(&self) -> CallOutcome {
        match self {
            Self::Reauthorize { .. } => CallOutcome::Rejected,
            Self::Misconfigured { .. } => CallOutcome::Misconfigured,
            Self::Busy { .. } => CallOutcome::Busy,
            Self::NotConnected { .. }
            | Self::ServerError { .. }
            | Self::Ambiguous { .. }
            | Self::Refused { .. } => CallOutcome::Failed,
        }
    }

    /// Removes `secrets` from the message, in case TikTok repeats what the request contained. Then truncates the message.
    pub(super) fn cleaned(mut self, secrets: &[&str]) -> Self {
        let (Self::NotConnected { message }
        | Self::Busy { message, .. }
        | Self::ServerError { message, .. }
        | Self::Ambiguous { message }
        | Self::Reauthorize { message, .. }
        | Self::Misconfigured { message, .. }
        | Self::Refused { message, .. }) = &mut self;
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            *message = message.replace(secret, "(hidden)").replace(&encoded, "(hidden)");
        }
        *message = message.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect();
        self
    }

    /// The response's `Retry-After`, if TikTok is busy.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The open API's codes for "too many requests".
const BUSY: [i64; 2] = [36_009_002, 36_009_037];
/// The open API's codes for "internal error" and "timeout".
const SERVER_ERROR: [i64; 2] = [36_009_003, 36_009_007];
/// "rt has expired" and "can not find related auth record": the authorization host's only two permanent codes.
const REAUTHORIZE_CODES: [i64; 2] = [36_004_001, 36_004_005];

/// Classifies a response by its business code and message.
pub(super) fn of_code(code: i64, message: String, retry_after: Option<Duration>) -> CallError {
    if REAUTHORIZE_CODES.contains(&code) {
        CallError::Reauthorize { code, message }
    } else if BUSY.contains(&code) {
        // Before the message, which may name the app key whose limit is reached.
        CallError::Busy { code, message, retry_after }
    } else if SERVER_ERROR.contains(&code) {
        CallError::ServerError { code, message }
    } else if blames_the_app(&message) {
        CallError::Misconfigured { code, message }
    } else {
        CallError::Refused { code, message }
    }
}

/// TikTok's own codes have at least five digits. A shorter one is an HTTP status that a gateway repeats.
const MIN_CODE: i64 = 10_000;

/// Classifies a response with HTTP status 500 or more, in which no code rejects the seller or the app.
pub(super) fn of_server_error(
    status: u16,
    code: Option<i64>,
    message: String,
    retry_after: Option<Duration>,
) -> CallError {
    match code {
        _ if status == 503 => CallError::Busy { code: 503, message, retry_after },
        Some(code) if BUSY.contains(&code) => CallError::Busy { code, message, retry_after },
        Some(code) if code >= MIN_CODE => CallError::ServerError { code, message },
        _ => {
            CallError::Ambiguous { message: format!("HTTP {status} without a code of TikTok's {message:?}") }
        }
    }
}

/// Classifies a response with an HTTP status below 500, and no code, as a failure.
pub(super) fn of_status(status: u16, message: String, retry_after: Option<Duration>) -> CallError {
    let code = i64::from(status);
    if status == 429 {
        CallError::Busy { code, message, retry_after }
    } else {
        CallError::Refused { code, message }
    }
}

/// Whether a message blames the app's key, secret or IP address. TikTok does not document the codes for these.
fn blames_the_app(message: &str) -> bool {
    let plain: String = message.to_lowercase().chars().filter(|c| !matches!(c, '"' | '\'' | '`')).collect();
    let contains_any = |words: &[&str]| words.iter().any(|word| plain.contains(word));
    let mentions_ip = plain.split(|c: char| !c.is_alphanumeric()).any(|word| word == "ip");
    contains_any(&["app_key", "app key", "appkey", "app_secret", "secret"])
        || (mentions_ip
            && contains_any(&["allow list", "allowlist", "allow-list", "whitelist", "white list"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_codes_mean_that_the_seller_must_connect_again() {
        for code in [36_004_001, 36_004_005] {
            assert_eq!(of_code(code, "x".into(), None).call_outcome(), CallOutcome::Rejected);
        }
        for code in [36_004_002, 36_004_003, 36_004_004, 105_002, 1, -1] {
            assert_eq!(of_code(code, "x".into(), None).call_outcome(), CallOutcome::Failed, "{code}");
        }
    }

    #[test]
    fn the_message_shows_that_the_app_is_misconfigured() {
        for message in [
            "Invalid app_key",
            "the app key is wrong",
            "'app_secret' mismatch",
            "client `secret` invalid",
            "The IP is not in the allow list.",
            "ip address not in IP whitelist",
        ] {
            assert_eq!(
                of_code(36_009_004, message.into(), None).call_outcome(),
                CallOutcome::Misconfigured,
                "{message}"
            );
        }
        for message in
            ["invalid grant_type", "shipping address", "list is empty", "recipient not in allow list"]
        {
            assert_eq!(
                of_code(36_009_004, message.into(), None).call_outcome(),
                CallOutcome::Failed,
                "{message}"
            );
        }
    }

    #[test]
    fn a_limit_of_the_app_does_not_mean_that_the_app_is_misconfigured() {
        let of = |code| of_code(code, "app_key 29a39d exceeds its limit".into(), None).call_outcome();
        assert_eq!([36_009_002, 36_009_037].map(of), [CallOutcome::Busy; 2]);
        assert_eq!([36_009_003, 36_009_007].map(of), [CallOutcome::Failed; 2]);
        assert_eq!(of(36_009_004), CallOutcome::Misconfigured);
    }

    #[test]
    fn a_repeated_secret_is_removed_before_the_message_is_truncated() {
        let message = format!("{} app_secret=s3+cr/t or s3%2Bcr%2Ft", "x".repeat(MAX_MESSAGE - 15));
        let cleaned = of_code(1, message, None).cleaned(&["s3+cr/t", ""]).to_string();
        assert!(!cleaned.contains("s3") && cleaned.contains("app_secret=(h"), "{cleaned}");
    }

    #[test]
    fn only_calls_on_which_tiktok_cannot_have_acted_are_retried() {
        let message = String::from;
        assert!(of_status(429, message(""), None).may_be_retried());
        let unavailable = of_server_error(503, None, message(""), None);
        assert!(unavailable.may_be_retried() && !unavailable.limits_the_rate());
        assert!(of_status(429, message(""), None).limits_the_rate());
        assert!(of_code(36_009_002, message("rate limit"), None).may_be_retried());
        assert!(CallError::NotConnected { message: message("refused") }.may_be_retried());
        assert!(!CallError::Ambiguous { message: message("timeout") }.may_be_retried());
        for status in [302, 400, 401, 404] {
            assert!(!of_status(status, message(""), None).may_be_retried(), "{status}");
        }
        for status in [500, 502, 504] {
            assert!(!of_server_error(status, None, message(""), None).may_be_retried(), "{status}");
        }
    }
}
