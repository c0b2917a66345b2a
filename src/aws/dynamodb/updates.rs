//! The updates that the protocol makes, each with its condition. None names an attribute that belongs to the user.

use super::Update;
use crate::domain::{
    grant::Grant,
    integration::{Candidate, Integration, Notice, Status, UnixTime},
    outcome::MISMATCH,
    secret::RefreshToken,
};
use chrono::{DateTime, Utc};

/// The attributes that describe the last failure.
const FAILURE: [&str; 4] = ["error_code", "error_message", "error_at", "consecutive_failures"];

/// What a row says of its last failure.
#[derive(Clone, Debug)]
pub struct Failure {
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
        .set_text("error_code", &failure.code)
        .set_text("error_message", &failure.message)
        .set_number("error_at", failure.at.0)
        .set_number("consecutive_failures", failure.consecutive_failures)
}

/// Marks a row as `error`, if it still holds the refresh token that TikTok rejected.
pub fn mark_rejected(attempt_id: &str, failure: &Failure, sent: &RefreshToken, status: &Status) -> Update {
    note_failure(attempt_id, failure)
        .set_text("status", Status::Error.as_str())
        .release()
        .only_if("refresh_token", Some(sent.expose()))
        .only_if("status", Some(status.as_str()))
}

/// Marks a row as `error` because its refresh token has expired, unless it has changed since it was read.
pub fn mark_expired(row: &Candidate, (code, message): (&str, &str), now: DateTime<Utc>) -> Update {
    unchanged(row)
        .set_text("status", Status::Error.as_str())
        .set_text("error_code", code)
        .set_text("error_message", message)
        .set_number("error_at", now.timestamp())
        .release()
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
        .only_if_time("refresh_token_expires_at", Some(notice.expires_at))
}

/// Stores a grant over the row as it was `seen`, and removes the lease and the last failure.
pub fn save(grant: &Grant, seen: &Integration, is_other_seller: bool, now: DateTime<Utc>) -> Update {
    let mut update = with_pair(Update::default(), grant, now).release();
    // A garbled attribute holds no token to protect, and must not keep the new pair out for ever.
    if let Some(token) = &seen.refresh_token {
        update = update.only_if("refresh_token", Some(token.expose()));
    }
    if let Some(token) = &seen.access_token {
        // Where refresh tokens do not rotate, only the access token shows that another pair was stored.
        update = update.only_if("access_token", Some(token.expose()));
    }
    let status = &seen.candidate.status;
    if !status.as_str().is_empty() {
        // Somebody may pause or mark the row meanwhile: look at that before writing over it.
        update = update.only_if("status", Some(status.as_str()));
    }
    if is_other_seller {
        return update
            .set_text("status", Status::Error.as_str())
            .set_text("error_code", MISMATCH.0)
            .set_text("error_message", MISMATCH.1)
            .set_number("error_at", now.timestamp());
    }
    update = with_seller(update, grant);
    if *status == Status::Error {
        update = update.set_text("status", Status::Active.as_str());
    }
    update.remove(&FAILURE)
}

/// Stores a connect's grant over the row that was read, or into a new row.
pub fn connect(
    grant: &Grant,
    row: Option<&Integration>,
    app_key: Option<&str>,
    now: DateTime<Utc>,
) -> Update {
    let mut update = with_seller(with_pair(Update::default(), grant, now), grant)
        .release()
        .remove(&FAILURE)
        .remove(&["refresh_token_notice"]);
    if let Some(app_key) = app_key {
        update = update.set_text("app_key", app_key);
    }
    // A status of the user's own stays; a mark of this function's is lifted.
    match row.map(|row| &row.candidate.status) {
        Some(Status::Other(status)) if !status.is_empty() => update = update.only_if("status", Some(status)),
        Some(status) if !status.as_str().is_empty() => {
            update =
                update.only_if("status", Some(status.as_str())).set_text("status", Status::Active.as_str());
        }
        _ => update = update.set_text("status", Status::Active.as_str()),
    }
    match row.and_then(|row| row.open_id.as_deref()) {
        Some(open_id) => update.only_if("open_id", Some(open_id)),
        None => update,
    }
}

fn held_by(attempt_id: &str) -> Update {
    Update::default().only_if("lock_owner", Some(attempt_id))
}

/// Only if status, refresh-token expiry and lease are as they were read.
fn unchanged(row: &Candidate) -> Update {
    Update::default()
        .only_if("status", Some(row.status.as_str()))
        .only_if_time("refresh_token_expires_at", row.refresh_expires_at)
        .only_if("lock_owner", row.lease.as_ref().map(|lease| lease.owner.as_str()))
}

/// The credential attributes of a grant. What TikTok did not send stays, except the old expiry of the access token.
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
fn with_seller(mut update: Update, grant: &Grant) -> Update {
    let seller = &grant.seller;
    if let Some(open_id) = &seller.open_id {
        update = update.set_text("open_id", open_id);
    }
    if let Some(name) = &seller.name {
        update = update.set_text("seller_name", name);
    }
    if let Some(region) = &seller.base_region {
        update = update.set_text("seller_base_region", region);
    }
    if let Some(scopes) = &seller.granted_scopes {
        update = update.set_list("granted_scopes", scopes.iter().cloned());
    }
    update
}
