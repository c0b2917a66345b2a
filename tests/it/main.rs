//! The specification: what the function promises, over HTTP against an embedded DynamoDB and a TikTok Shop that
//! behaves like the documented service.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "nothing is reachable in a test binary")]

mod architecture;
mod authorizations;
mod bad_nights;
mod bad_surroundings;
mod break_it;
mod break_marks;
mod break_pressure;
mod calls;
mod command;
mod connect;
mod connect_link;
mod credentials;
mod docs;
mod ensure;
mod events;
mod faults;
mod import;
mod kills;
mod lambda;
mod limits;
mod many;
mod marking_model;
mod marks;
mod model;
mod outcomes;
mod published_events;
mod queue;
mod rule;
mod scale;
mod secrets;
mod snapshots;
mod status;
mod support;
mod verify;
