//! The updates that the protocol makes, each with its condition. None names an attribute that belongs to the user.

use super::Update;
use crate::domain::{
    grant::Grant,
    import::NewIntegration,
    integration::{Candidate, Integration, Notice, Status, UnixTime},
    outcome::MISMATCH,
    reason::Reason,
    secret::{AccessToken, Fingerprint, RefreshToken},
    shop::Shop,
};
use chrono::{DateTime, Utc};

/// The attributes that describe the last failure.
const FAILURE: [&str; 6] =
    ["error_reason", "error_code", "error_message", "error_at", "consecutive_failures", "rejected_by"];

/// A failure to note in a row.
#[derive(Clone, Debug)]
pub struct Failure {
    /// `error_reason`: as in responses.
    pub reason: Reason,
    /// `error_code`: TikTok's own, or the reason.
    pub code: String,
    /// `error_message`: for a person.
    pub message: String,
    /// `error_at`.
    pub at: UnixTime,
    /// `consecutive_failures`, this one included.
    pub consecutive_failures: i64,
}

/// Releases the lease, if this attempt still holds it.
pub fn release(attempt_id: &str) -> Update {
    held_by(attempt_id).release()
}

/// Notes a failure, if this attempt still holds the lease. The lease stays.
pub fn note_failure(attempt_id: &str, failure: &Failure) -> Update {
    held_by(attempt_id)
        .set_text("error_reason", failure.reason.as_str())
        .set_text("error_code", &failure.code)
        .set_text("error_message", &failure.message)
        .set_number("error_at", failure.at.0)
        .set_number("consecutive_failures", failure.consecutive_failures)
}

/// Notes a rejection and releases the lease, if this attempt still holds it. The row keeps its status.
pub fn note_rejection(attempt_id: &str, failure: &Failure, rejected_by: &Fingerprint) -> Update {
    note_failure(attempt_id, failure).set_text("rejected_by", &rejected_by.0).release()
}

/// Corrects the reason of a rejection that is noted already, if nothing else has been noted since.
pub fn correct_reason(rejected_by: &Fingerprint, at: UnixTime, reason: Reason) -> Update {
    Update::default()
        .set_text("error_reason", reason.as_str())
        .only_if("rejected_by", Some(&rejected_by.0))
        .only_if_number("error_at", Some(at.0))
}

/// Marks a row as `error`, if it is as it was when TikTok rejected it and holds this attempt's note: each attempt counts one
/// failure more than the one before.
pub fn mark(row: &Integration, rejected_by: &Fingerprint, note: &Failure) -> Update {
    Update::default()
        .set_text("status", Status::Error.as_str())
        .only_if("status", Some(Status::Active.as_str()))
        .only_if("refresh_token", row.refresh_token.as_ref().map(RefreshToken::expose))
        .only_if("access_token", row.access_token.as_ref().map(AccessToken::expose))
        .only_if("authorization_id", row.authorization_id.as_deref())
        .only_if("rejected_by", Some(&rejected_by.0))
        .only_if_number("error_at", Some(note.at.0))
        .only_if_number("consecutive_failures", Some(note.consecutive_failures))
}

/// Marks a row as `expired`, unless the seller has connected again or an attempt has begun since the row was read.
pub fn clean_up(row: &Candidate) -> Update {
    unchanged(row).set_text("status", Status::Expired.as_str()).release()
}

/// Notes that a warning of the refresh token's expiry is about to be published.
pub fn note_expiry_warning(row: &Candidate, notice: Notice) -> Update {
    let last = row.notice.as_ref().map(Notice::to_text);
    Update::default()
        .set_text("refresh_token_notice", notice.to_text())
        .only_if("refresh_token_notice", last.as_deref())
        .only_if_number("refresh_token_expires_at", Some(notice.expires_at.0))
}

/// Stores a grant of the app `app_key` over the row as it was `seen`, and removes the lease and the last failure. What TikTok
/// did not send stays, except the old expiry of the access token.
pub fn save(
    grant: &Grant,
    app_key: Option<&str>,
    seen: &Integration,
    is_other_seller: bool,
    now: DateTime<Utc>,
) -> Update {
    let status = Some(seen.candidate.status.as_str()).filter(|status| !status.is_empty());
    let mut update = with_pair(Update::default(), grant, now)
        .release()
        .only_if("refresh_token", seen.refresh_token.as_ref().map(RefreshToken::expose))
        // Where refresh tokens do not rotate, only the access token shows that another pair was stored.
        .only_if("access_token", seen.access_token.as_ref().map(AccessToken::expose))
        .only_if("status", status)
        .only_if("authorization_id", seen.authorization_id.as_deref());
    if let Some(app_key) = app_key {
        update = update.set_text("app_key", app_key);
    }
    if is_other_seller {
        // A status of the user's own stays.
        if matches!(seen.candidate.status, Status::Active | Status::Error) {
            update = update.set_text("status", Status::Error.as_str());
        }
        return update
            .set_text("error_reason", Reason::IdentityMismatch.as_str())
            .set_text("error_code", Reason::IdentityMismatch.as_str())
            .set_text("error_message", MISMATCH)
            .set_number("error_at", now.timestamp())
            .remove(&["rejected_by"]);
    }
    for (name, value) in seller_texts(grant) {
        if let Some(value) = value {
            update = update.set_text(name, value);
        }
    }
    if let Some(scopes) = &grant.seller.granted_scopes {
        update = update.set_list("granted_scopes", scopes.iter().cloned());
    }
    if seen.candidate.status == Status::Error {
        update = update.set_text("status", Status::Active.as_str());
    }
    update.remove(&FAILURE)
}

/// A seller's new authorization.
#[derive(Clone, Copy, Debug)]
pub struct Authorization<'a> {
    /// What TikTok granted.
    pub grant: &'a Grant,
    /// The app that the seller authorized.
    pub app_key: &'a str,
    /// The generation: new with every connect.
    pub id: &'a str,
}

/// Stores a new authorization over the row that was read, or into a new row. Replaces every credential attribute: what TikTok
/// did not send is removed, so that nothing of an earlier authorization stays.
pub fn connect(authorization: Authorization<'_>, row: Option<&Integration>, now: DateTime<Utc>) -> Update {
    let Authorization { grant, app_key, id } = authorization;
    let mut update = with_pair(Update::default(), grant, now)
        .set_text("app_key", app_key)
        .set_text("authorization_id", id)
        .release()
        .remove(&FAILURE)
        .remove(&["refresh_token_notice", "authorized_shops"]);
    if grant.refresh_token.is_none() {
        update = update.remove(&["refresh_token"]);
    }
    if grant.refresh_expires_at.is_none() {
        update = update.remove(&["refresh_token_expires_at"]);
    }
    for (name, value) in seller_texts(grant) {
        update = match value {
            Some(value) => update.set_text(name, value),
            None => update.remove(&[name]),
        };
    }
    update = match &grant.seller.granted_scopes {
        Some(scopes) => update.set_list("granted_scopes", scopes.iter().cloned()),
        None => update.remove(&["granted_scopes"]),
    };
    // A status of the user's own stays; a mark of this function's is lifted.
    let status = row.map(|row| row.candidate.status.as_str()).filter(|status| !status.is_empty());
    if !matches!(row.map(|row| &row.candidate.status), Some(Status::Other(own)) if !own.is_empty()) {
        update = update.set_text("status", Status::Active.as_str());
    }
    update
        .only_if("status", status)
        .only_if("open_id", row.and_then(|row| row.open_id.as_deref()))
        .only_if("authorization_id", row.and_then(|row| row.authorization_id.as_deref()))
}

/// Stores an existing authorization into a new row, with a generation of its own.
pub fn import(integration: &NewIntegration, authorization_id: &str) -> Update {
    let mut update = Update::default()
        .set_text("status", integration.status.as_str())
        .set_text("authorization_id", authorization_id)
        .set_text("refresh_token", integration.refresh_token.expose());
    for (name, text) in [
        ("app_key", integration.app_key.as_deref()),
        ("access_token", integration.access_token.as_ref().map(AccessToken::expose)),
        ("open_id", integration.open_id.as_deref()),
        ("seller_name", integration.seller_name.as_deref()),
        ("seller_base_region", integration.seller_base_region.as_deref()),
    ] {
        if let Some(text) = text {
            update = update.set_text(name, text);
        }
    }
    for (name, at) in [
        ("access_token_expires_at", integration.access_expires_at),
        ("refresh_token_expires_at", integration.refresh_expires_at),
    ] {
        if let Some(at) = at {
            update = update.set_number(name, at.0);
        }
    }
    match &integration.granted_scopes {
        Some(scopes) => update.set_list("granted_scopes", scopes.iter().cloned()),
        None => update,
    }
}

/// Stores the shops that TikTok lists for an access token, if the row still holds that token and that authorization.
pub fn store_shops(access_token: &AccessToken, authorization_id: Option<&str>, shops: &[Shop]) -> Update {
    Update::default()
        .set_shops("authorized_shops", shops)
        .only_if("access_token", Some(access_token.expose()))
        .only_if("authorization_id", authorization_id)
}

fn held_by(attempt_id: &str) -> Update {
    Update::default().only_if("lock_owner", Some(attempt_id))
}

/// Only if status and refresh-token expiry are as they were read, and no attempt has begun since.
fn unchanged(row: &Candidate) -> Update {
    Update::default()
        .only_if("status", Some(row.status.as_str()))
        .only_if_number("refresh_token_expires_at", row.refresh_expires_at.map(|at| at.0))
        // Compares the expiry, not the owner: a new lease always expires later, and an incomplete lease may have no owner.
        .only_if_number("lock_expires_at", row.lease.as_ref().map(|lease| lease.expires_at.0))
}

/// The token pair of a grant, as far as TikTok sent it.
fn with_pair(update: Update, grant: &Grant, now: DateTime<Utc>) -> Update {
    let mut update = update
        .set_text("access_token", grant.access_token.expose())
        .set_number("last_refreshed_at", now.timestamp());
    update = match grant.access_expires_at {
        Some(at) => update.set_number("access_token_expires_at", at.0),
        None => update.remove(&["access_token_expires_at"]),
    };
    if let Some(token) = &grant.refresh_token {
        update = update.set_text("refresh_token", token.expose());
    }
    match grant.refresh_expires_at {
        Some(at) => update.set_number("refresh_token_expires_at", at.0),
        None => update,
    }
}

/// What TikTok says of the seller.
fn seller_texts(grant: &Grant) -> [(&'static str, Option<&str>); 3] {
    let seller = &grant.seller;
    [
        ("open_id", seller.open_id.as_deref()),
        ("seller_name", seller.name.as_deref()),
        ("seller_base_region", seller.base_region.as_deref()),
    ]
}
