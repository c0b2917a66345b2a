//! The JSON that the function responds with. No response ever holds a token or a secret.

mod cleanup;
mod connect;
mod refresh;
mod verify;

pub use cleanup::{CleanedUp, CleanupCounts, CleanupResponse, CleanupResults};
pub use connect::ConnectResponse;
pub use refresh::{RefreshResponse, RefreshResults};
pub use verify::{VerifyCounts, VerifyReport, VerifyResponse, VerifyResults};
