//! The machine-readable reasons of the reports of `refresh`, `ensure` and `verify`, of the log and of the row's `error_reason`.

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

/// Why an integration's refresh, `ensure` or `verify` ended as it did. The name of a reason is a part of the wire format and is
/// stored in rows; docs/LOGGING.md says what to do about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum Reason {
    /// An attribute of the row is missing or has the wrong type.
    MalformedRow,
    /// The row's `app_key` is not in the secret.
    UnknownAppKey,
    /// The integration is not in the table.
    NotFound,
    /// TikTok refuses the app's credentials or IP address.
    Misconfigured,
    /// TikTok rejected the seller, but nothing proves that the app's credentials are right.
    AppUnderSuspicion,
    /// TikTok rejected the refresh token: the seller must connect again.
    Reauthorize,
    /// The same after an interrupted attempt, whose response with a new token pair was probably lost.
    ProbablyLostAnswer,
    /// TikTok rejected the refresh token, but the row's access token still works.
    RefreshTokenLost,
    /// TikTok responded with a code that is not classified.
    Refused,
    /// There was no connection to TikTok.
    NotConnected,
    /// TikTok was busy in every try.
    ProviderBusy,
    /// TikTok reports an internal error, with a code of its own.
    ProviderError,
    /// TikTok's response was lost or unreadable, twice.
    NoReadableAnswer,
    /// DynamoDB refused a request for this row.
    StoreError,
    /// DynamoDB refused the new token pair until the attempt ended, and no queue holds it.
    NotSaved,
    /// The row was deleted meanwhile.
    Deleted,
    /// A panic: a bug.
    InternalError,
    /// The row has no refresh token.
    RefreshTokenMissing,
    /// TikTok returned another seller's token pair.
    IdentityMismatch,
    /// An earlier run, or a program of the user's, marked the row.
    Marked,
    /// The integration is in the work queue.
    FanOut,
    /// The rescue queue holds the new token pair.
    Rescued,
    /// The work queue did not accept the integration.
    QueueRefused,
    /// The invocation had no time left.
    OutOfTime,
    /// The app's circuit breaker tripped: TikTok rejected every seller.
    MassRejection,
    /// The app's circuit breaker tripped: TikTok is down.
    ProviderDown,
    /// Another writer stored a newer token pair during the refresh.
    Superseded,
    /// The access token expires within `REFRESH_AHEAD`, or has expired.
    AccessTokenExpiring,
    /// The stored expiry of the access token is implausible.
    ExpiryNotBelieved,
    /// The request forces the refresh.
    Forced,
    /// The row is marked, but under other credentials than those in use.
    CredentialsChanged,
    /// Another attempt holds the lease.
    Leased,
    /// The row has a status of the user's own or, in `verify`, is not `active`.
    Status,
    /// Another writer changed the row during the run.
    ChangedMeanwhile,
    /// TikTok rejects an access token that was refreshed a moment ago.
    JustRefreshed,
    /// TikTok rejects the access token.
    TokenRejected,
    /// The seller has not granted the scope that the call needs.
    ScopeMissing,
    /// TikTok rejects the request's signature.
    SignatureRejected,
    /// TikTok denies access to the shop.
    ShopRejected,
    /// The app credentials cannot be read.
    CredentialsUnavailable,
}

impl Reason {
    /// The name in responses, logs and rows.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
