//! What the open API's refusals mean. Code and message together decide; a bare 401 does not mean that a token has
//! expired.

use super::CallError;

/// A call of the open API that failed. No variant holds a URL, a token or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The access token has expired or is not known: a refresh may help, and nothing else calls for one.
    #[error("TikTok does not take the access token: it answered {code} {message:?}")]
    Token {
        /// TikTok's code.
        code: i64,
        /// TikTok's words.
        message: String,
    },
    /// The token is fine; the seller has not granted this.
    #[error("the seller has not granted this: TikTok answered {code} {message:?}")]
    Scope {
        /// TikTok's code.
        code: i64,
        /// TikTok's words.
        message: String,
    },
    /// The request was not signed as TikTok expects: often a wrong app secret, or a clock that is off.
    #[error(
        "TikTok does not take the signature: it answered {code} {message:?}; check the app secret and the clock"
    )]
    Signature {
        /// TikTok's code.
        code: i64,
        /// TikTok's words.
        message: String,
    },
    /// The token is another shop's, or the shop or its seller is inactive.
    #[error("TikTok does not open this shop: it answered {code} {message:?}")]
    Shop {
        /// TikTok's code.
        code: i64,
        /// TikTok's words.
        message: String,
    },
    /// Anything else: of the app, of TikTok, or of the way there.
    #[error(transparent)]
    Call(CallError),
}

impl ApiError {
    /// The `reason` of an answer.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token_rejected",
            Self::Scope { .. } => "scope_missing",
            Self::Signature { .. } => "signature_rejected",
            Self::Shop { .. } => "shop_rejected",
            Self::Call(error) => error.reason(),
        }
    }

    /// TikTok's code, where it gave one.
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Token { code, .. }
            | Self::Scope { code, .. }
            | Self::Signature { code, .. }
            | Self::Shop { code, .. } => Some(*code),
            Self::Call(error) => error.code(),
        }
    }

    pub(super) fn of(error: CallError) -> Self {
        let (code, message) = match &error {
            CallError::Refused { code, message } | CallError::Misconfigured { code, message } => {
                (*code, message.clone())
            }
            _ => return Self::Call(error),
        };
        let words = message.to_lowercase();
        match code {
            105_002 => Self::Token { code, message },
            105_005 => Self::Scope { code, message },
            106_001 => Self::Signature { code, message },
            101_000 | 36_009_043 | 36_009_044 => Self::Shop { code, message },
            // One code for about eleven things.
            36_009_004 if words.contains("token") => Self::Token { code, message },
            36_009_004 if words.contains("sign") || words.contains("timestamp") => {
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
    fn only_a_token_error_calls_for_a_refresh() {
        let of =
            |code, message: &str| ApiError::of(CallError::Refused { code, message: message.into() }).reason();
        assert_eq!(of(105_002, "access token is expired"), "token_rejected");
        assert_eq!(of(36_009_004, "x-tts-access-token is invalid"), "token_rejected");
        assert_eq!(of(36_009_004, "sign is missing"), "signature_rejected");
        assert_eq!(of(36_009_004, "timestamp is invalid"), "signature_rejected");
        assert_eq!(of(106_001, "sign is invalid"), "signature_rejected");
        assert_eq!(of(105_005, "access scope"), "scope_missing");
        for code in [101_000, 36_009_043, 36_009_044] {
            assert_eq!(of(code, "x"), "shop_rejected");
        }
        assert_eq!(of(401, "a bare HTTP status"), "refused");
        let app = CallError::Misconfigured { code: 36_009_004, message: "app_key is invalid".into() };
        assert_eq!(ApiError::of(app).reason(), "misconfigured");
    }
}
