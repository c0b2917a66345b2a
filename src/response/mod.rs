//! The function's JSON responses. A response never contains a token or a secret, and its list is bounded.

mod cleanup;
mod connect;
mod connect_link;
mod ensure;
mod import;
mod refresh;
mod verify;

pub use cleanup::{CleanupCounts, CleanupReport, CleanupResponse, CleanupResults};
pub use connect::ConnectResponse;
pub use connect_link::ConnectLinkResponse;
pub use ensure::EnsureResponse;
pub use import::{ImportCounts, ImportOutcome, ImportReport, ImportResponse};
pub use refresh::{RefreshResponse, RefreshResults};
pub use verify::{VerifyCounts, VerifyReport, VerifyResponse, VerifyResults};
