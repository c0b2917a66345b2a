//! Classifies the errors of TikTok's open API by code and message. A bare HTTP 401 does not mean that a token has expired.

use super::CallError;
use crate::domain::reason::Reason;
use std::time::Duration;

/// A failed call to the open API. No variant holds a URL, a token or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The access token has expired or is unknown. This is the only error that a refresh may resolve.
    #[error("TikTok rejects the access token: {code} {message:?}")]
    Token {
        /// TikTok's error code.
        code: i64,
        /// TikTok's message.
        message: String,
    },
    /// The access token is valid, but the seller has not granted the scope.
    #[error("the seller has not granted the scope for this call: {code} {message:?}")]
    Scope {
        /// TikTok's error code.
        code: i64,
        /// TikTok's message.
        message: String,
    },
    /// The signature or its timestamp is invalid, often because of a wrong app secret or clock.
    #[error("TikTok rejects the request's signature: {code} {message:?}; check the app secret and the clock")]
    Signature {
        /// TikTok's error code.
        code: i64,
        /// TikTok's message.
        message: String,
    },
    /// The access token belongs to another shop, or the shop or its seller is inactive.
    #[error("TikTok denies access to the shop: {code} {message:?}")]
    Shop {
        /// TikTok's error code.
        code: i64,
        /// TikTok's message.
        message: String,
    },
    /// Any other error: of the app, of TikTok, or of the network.
    #[error(transparent)]
    Call(CallError),
}

impl ApiError {
    /// The `reason` in the response.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Token { .. } => Reason::TokenRejected,
            Self::Scope { .. } => Reason::ScopeMissing,
            Self::Signature { .. } => Reason::SignatureRejected,
            Self::Shop { .. } => Reason::ShopRejected,
            Self::Call(error) => error.reason(),
        }
    }

    /// TikTok's error code or the HTTP status, if TikTok responded.
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Token { code, .. }
            | Self::Scope { code, .. }
            | Self::Signature { code, .. }
            | Self::Shop { code, .. } => Some(*code),
            Self::Call(error) => error.code(),
        }
    }

    /// Whether a call that changes nothing is worth repeating: the cause may pass.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Token { .. } | Self::Scope { .. } | Self::Signature { .. } | Self::Shop { .. } => false,
            Self::Call(error) => error.may_pass(),
        }
    }

    /// The response's `Retry-After`, if TikTok is busy.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Token { .. } | Self::Scope { .. } | Self::Signature { .. } | Self::Shop { .. } => None,
            Self::Call(error) => error.retry_after(),
        }
    }

    pub(super) fn of(error: CallError) -> Self {
        let (code, message) = match &error {
            CallError::Refused { code, message } | CallError::Misconfigured { code, message } => {
                (*code, message.clone())
            }
            _ => return Self::Call(error),
        };
        let lower = message.to_lowercase();
        match code {
            105_002 => Self::Token { code, message },
            105_005 => Self::Scope { code, message },
            106_001 => Self::Signature { code, message },
            101_000 | 36_009_043 | 36_009_044 => Self::Shop { code, message },
            // This code stands for about eleven different errors.
            36_009_004 if lower.contains("token") => Self::Token { code, message },
            36_009_004 if lower.contains("sign") || lower.contains("timestamp") => {
                Self::Signature { code, message }
            }
            _ => Self::Call(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_message_classify_an_error() {
        let of =
            |code, message: &str| ApiError::of(CallError::Refused { code, message: message.into() }).reason();
        assert_eq!(of(105_002, "access token is expired"), Reason::TokenRejected);
        assert_eq!(of(36_009_004, "x-tts-access-token is invalid"), Reason::TokenRejected);
        assert_eq!(of(36_009_004, "sign is missing"), Reason::SignatureRejected);
        assert_eq!(of(36_009_004, "timestamp is invalid"), Reason::SignatureRejected);
        assert_eq!(of(106_001, "sign is invalid"), Reason::SignatureRejected);
        assert_eq!(of(105_005, "access scope"), Reason::ScopeMissing);
        for code in [101_000, 36_009_043, 36_009_044] {
            assert_eq!(of(code, "x"), Reason::ShopRejected);
        }
        assert_eq!(of(401, "a bare HTTP status"), Reason::Refused);
        let app = CallError::Misconfigured { code: 36_009_004, message: "app_key is invalid".into() };
        assert_eq!(ApiError::of(app).reason(), Reason::Misconfigured);
    }
}
