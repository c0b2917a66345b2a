//! What can go wrong with a call to TikTok, and what each failure means for the row, the app and the run.

use crate::domain::circuit_breaker::CallOutcome;
use std::time::Duration;
use url::form_urlencoded;

/// How much of TikTok's words is kept, in characters.
const MAX_MESSAGE: usize = 200;

/// A refresh that yielded no token. No variant holds a URL, a token or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent.
    #[error("no connection to TikTok: {message}; nothing was sent")]
    NotConnected {
        /// What the connection failed with.
        message: String,
    },
    /// TikTok asks to come back later (HTTP 429, or a code for it).
    #[error("TikTok is busy: it answered {code} {message:?}")]
    Busy {
        /// TikTok's code, or the HTTP status.
        code: i64,
        /// TikTok's words.
        message: String,
        /// How long TikTok asks to wait.
        retry_after: Option<Duration>,
    },
    /// TikTok's own trouble (HTTP 5xx, or a code for it).
    #[error("TikTok has trouble of its own: it answered {code} {message:?}")]
    ServerError {
        /// TikTok's code, or the HTTP status.
        code: i64,
        /// TikTok's words.
        message: String,
    },
    /// The answer did not come, or could not be read: TikTok may or may not have acted.
    #[error("no readable answer: {message}; TikTok may or may not have acted")]
    Ambiguous {
        /// What was wrong with the answer.
        message: String,
    },
    /// The seller's authorization is gone.
    #[error("the seller must connect again: TikTok answered {code} {message:?}")]
    Reauthorize {
        /// TikTok's code.
        code: i64,
        /// TikTok's words.
        message: String,
    },
    /// TikTok refuses the app's credentials or address.
    #[error(
        "TikTok refuses the app itself: it answered {code} {message:?}; check the app key, the app secret and the app's IP allow list"
    )]
    Misconfigured {
        /// TikTok's code, or the HTTP status.
        code: i64,
        /// TikTok's words.
        message: String,
    },
    /// Any other code.
    #[error("TikTok refused: it answered {code} {message:?}")]
    Refused {
        /// TikTok's code, or the HTTP status.
        code: i64,
        /// TikTok's words.
        message: String,
    },
}

impl CallError {
    /// TikTok's code, where it gave one.
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

    /// The `reason` of the answer and the row's `error_code`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotConnected { .. } => "not_connected",
            Self::Busy { .. } => "provider_busy",
            Self::ServerError { .. } => "provider_error",
            Self::Ambiguous { .. } => "no_readable_answer",
            Self::Reauthorize { .. } => "reauthorize",
            Self::Misconfigured { .. } => "misconfigured",
            Self::Refused { .. } => "refused",
        }
    }

    /// Whether TikTok has certainly not redeemed the token, so that asking again can do no harm.
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

    /// What the failure says of the app.
    pub fn call_outcome(&self) -> CallOutcome {
        match self {
            Self::Reauthorize { .. } => CallOutcome::Rejected,
            Self::Misconfigured { .. } => CallOutcome::Misconfigured,
            Self::NotConnected { .. }
            | Self::Busy { .. }
            | Self::ServerError { .. }
            | Self::Ambiguous { .. }
            | Self::Refused { .. } => CallOutcome::Failed,
        }
    }

    /// Takes `secrets`, which were sent, out of what came back, should TikTok ever repeat them; then cuts it.
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

    /// How long TikTok asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Codes by which the open API says "too many requests".
const BUSY: [i64; 2] = [36_009_002, 36_009_037];
/// Codes by which the open API says "internal error" and "time-out".
const TROUBLE: [i64; 2] = [36_009_003, 36_009_007];
/// "rt has expired" and "can not find related auth record": the only two permanent codes of the auth host.
const REAUTHORIZE: [i64; 2] = [36_004_001, 36_004_005];

/// The failure that the auth host's business code and message mean.
pub(super) fn of_code(code: i64, message: String, retry_after: Option<Duration>) -> CallError {
    if REAUTHORIZE.contains(&code) {
        CallError::Reauthorize { code, message }
    } else if names_the_app(&message) {
        CallError::Misconfigured { code, message }
    } else if BUSY.contains(&code) {
        CallError::Busy { code, message, retry_after }
    } else if TROUBLE.contains(&code) {
        CallError::ServerError { code, message }
    } else {
        CallError::Refused { code, message }
    }
}

/// The failure that a bare HTTP status means.
pub(super) fn of_status(status: u16, message: String, retry_after: Option<Duration>) -> CallError {
    let code = i64::from(status);
    match status {
        429 => CallError::Busy { code, message, retry_after },
        500.. => CallError::ServerError { code, message },
        _ => CallError::Refused { code, message },
    }
}

/// Whether a message blames the app's key, secret or address. The auth host's codes for these are not public.
fn names_the_app(message: &str) -> bool {
    let plain: String = message.to_lowercase().chars().filter(|c| !matches!(c, '"' | '\'' | '`')).collect();
    let names = |words: &[&str]| words.iter().any(|word| plain.contains(word));
    let names_an_ip = plain.split(|c: char| !c.is_alphanumeric()).any(|word| word == "ip");
    names(&["app_key", "app key", "appkey", "app_secret", "secret"])
        || (names_an_ip && names(&["allow list", "allowlist", "allow-list", "whitelist", "white list"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_codes_send_the_seller_to_connect_again() {
        for code in [36_004_001, 36_004_005] {
            assert_eq!(of_code(code, "x".into(), None).call_outcome(), CallOutcome::Rejected);
        }
        for code in [36_004_002, 36_004_003, 36_004_004, 105_002, 1, -1] {
            assert_eq!(of_code(code, "x".into(), None).call_outcome(), CallOutcome::Failed, "{code}");
        }
    }

    #[test]
    fn the_message_tells_a_wrong_app() {
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
    fn a_secret_that_comes_back_is_taken_out_before_the_message_is_cut() {
        let message = format!("{} app_secret=s3+cr/t or s3%2Bcr%2Ft", "x".repeat(MAX_MESSAGE - 15));
        let cleaned = of_code(1, message, None).cleaned(&["s3+cr/t", ""]).to_string();
        assert!(!cleaned.contains("s3") && cleaned.contains("app_secret=(h"), "{cleaned}");
    }

    #[test]
    fn only_what_tiktok_cannot_have_acted_on_is_retried() {
        let said = String::from;
        assert!(of_status(429, said(""), None).may_be_retried());
        assert!(of_code(36_009_002, said("rate limit"), None).may_be_retried());
        assert!(CallError::NotConnected { message: said("refused") }.may_be_retried());
        assert!(!CallError::Ambiguous { message: said("time-out") }.may_be_retried());
        for status in [302, 400, 401, 404, 500, 503] {
            assert!(!of_status(status, said(""), None).may_be_retried(), "{status}");
        }
    }
}
