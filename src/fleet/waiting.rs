//! A row that waits for its refresh, in as few bytes as may be: these are the most of what a run holds.

use crate::integration::{Candidate, IntegrationKey, Status, UnixTime};
use compact_str::CompactString;

/// A row that waits.
#[derive(Clone, Debug)]
pub(super) enum Waiting {
    /// The usual row: active, without a lease or a published warning. Its three names stand one after the other, so that a
    /// row with numbers for ids takes no memory beyond this, and one with longer ids a single piece of it.
    Usual {
        names: CompactString,
        team_id_len: u16,
        integration_id_len: u16,
        access_expires_at: UnixTime,
        refresh_expires_at: UnixTime,
        has: Has,
    },
    /// Any other, as it is.
    Unusual(Box<Candidate>),
}

/// What a row has of what it may lack. Beside the values, as an `Option` of each would take 8 bytes for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Has {
    app_key: bool,
    access_expiry: bool,
    refresh_expiry: bool,
}

impl From<Candidate> for Waiting {
    fn from(row: Candidate) -> Self {
        let (team_id, integration_id) = (&row.key.team_id, &row.key.integration_id);
        let lens = (u16::try_from(team_id.len()), u16::try_from(integration_id.len()));
        let (Status::Active, None, None, (Ok(team_id_len), Ok(integration_id_len))) =
            (&row.status, &row.lease, &row.notice, lens)
        else {
            return Self::Unusual(Box::new(row));
        };
        let app_key = row.app_key.as_deref().unwrap_or_default();
        let mut names = CompactString::with_capacity(team_id.len() + integration_id.len() + app_key.len());
        for name in [team_id, integration_id, app_key] {
            names.push_str(name);
        }
        Self::Usual {
            names,
            team_id_len,
            integration_id_len,
            access_expires_at: row.access_expires_at.unwrap_or(UnixTime(0)),
            refresh_expires_at: row.refresh_expires_at.unwrap_or(UnixTime(0)),
            has: Has {
                app_key: row.app_key.is_some(),
                access_expiry: row.access_expires_at.is_some(),
                refresh_expiry: row.refresh_expires_at.is_some(),
            },
        }
    }
}

impl Waiting {
    /// The row that was put away.
    pub(super) fn candidate(&self) -> Candidate {
        match self {
            Self::Unusual(row) => (**row).clone(),
            Self::Usual {
                names,
                team_id_len,
                integration_id_len,
                access_expires_at,
                refresh_expires_at,
                has,
            } => {
                let (team_id, rest) = names.split_at(usize::from(*team_id_len));
                let (integration_id, app_key) = rest.split_at(usize::from(*integration_id_len));
                let key = IntegrationKey { team_id: team_id.into(), integration_id: integration_id.into() };
                Candidate {
                    access_expires_at: has.access_expiry.then_some(*access_expires_at),
                    refresh_expires_at: has.refresh_expiry.then_some(*refresh_expires_at),
                    ..Candidate::of_key(key, has.app_key.then(|| app_key.into()))
                }
            }
        }
    }

    /// When its access token expires, as stored.
    pub(super) fn access_expires_at(&self) -> Option<UnixTime> {
        match self {
            Self::Usual { access_expires_at, has, .. } => has.access_expiry.then_some(*access_expires_at),
            Self::Unusual(row) => row.access_expires_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::{Lease, Notice};
    use proptest::{option::of, prelude::*};

    fn any_row() -> impl Strategy<Value = Candidate> {
        let names = ("\\PC{0,40}", "\\PC{0,40}", of("\\PC{0,20}"));
        let expiries = [of(any::<i64>()), of(any::<i64>())];
        let rest = (prop_oneof![3 => "active", 1 => "error|paused"], of("[0-9a-f]{36}"), of(1..30_i64));
        (names, expiries, rest).prop_map(|((team_id, integration_id, app_key), [access, refresh], rest)| {
            let (status, lease_owner, days_of_notice) = rest;
            let expires_at = UnixTime(7);
            Candidate {
                key: IntegrationKey { team_id: team_id.into(), integration_id: integration_id.into() },
                status: Status::parse(&status),
                app_key: app_key.map(CompactString::from),
                access_expires_at: access.map(UnixTime),
                refresh_expires_at: refresh.map(UnixTime),
                lease: lease_owner.map(|owner| Box::new(Lease { owner, expires_at })),
                notice: days_of_notice.map(|days| Box::new(Notice { days, expires_at })),
            }
        })
    }

    proptest! {
        #[test]
        fn what_was_put_away_comes_back_as_it_was(row in any_row()) {
            let waiting = Waiting::from(row.clone());
            prop_assert_eq!(waiting.access_expires_at(), row.access_expires_at);
            prop_assert_eq!(waiting.candidate(), row);
        }
    }

    #[test]
    fn an_id_of_any_length_comes_back_as_it_was() {
        let key = IntegrationKey { team_id: "t".repeat(70_000).into(), integration_id: "7".into() };
        let row = Candidate::of_key(key, None);
        assert_eq!(Waiting::from(row.clone()).candidate(), row);
    }

    #[test]
    fn the_usual_row_takes_48_bytes() {
        assert_eq!(size_of::<Waiting>(), 48);
    }
}
