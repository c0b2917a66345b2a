//! Refreshes the access tokens of TikTok Shop integrations, as an AWS Lambda function.
//!
//! A schedule or an operator invokes the function with a JSON event. The function scans a DynamoDB table of integrations,
//! refreshes the token pairs that are due, saves the new pairs and responds with a report. Two guarantees hold through crashes,
//! overlapping runs and outages:
//!
//! - An integration has at most one live refresh attempt. The attempt holds a lease in the integration's row.
//! - Each token pair that TikTok issues is saved, unless the row holds a newer one. The function retries the save until the
//!   invocation ends. After one second without success, it also sends the pair to the queue, if there is one.
//!
//! # Data flow
//!
//! [`event::parse`] turns an event into a [`Request`](event::Request). A run scans the table for
//! [`Candidate`](domain::integration::Candidate)s, which hold keys and expiries but no tokens. To refresh a candidate, an attempt
//! acquires the lease of its row, and so gets a leased row. Only the refresh token of a leased row is ever redeemed. Each attempt
//! ends in an [`Outcome`](domain::outcome::Outcome), and all outcomes become a [`Response`](handler::Response).
//!
//! # Layout
//!
//! A folder imports only from folders above it in this table. `tests/it/architecture.rs` lists the imports that each folder may
//! have, and fails on any other.
//!
//! | Module | Contents |
//! |---|---|
//! | [`domain`] | Pure code without I/O: rows, due policy, outcomes, circuit breaker, secrets. Imports from no other module |
//! | [`settings`], [`logging`] | The environment variables; the JSON log lines |
//! | [`event`] | The JSON events and their errors |
//! | [`response`], [`status_report`] | The JSON responses; the status report as JSON, text and HTML |
//! | [`aws`], [`tiktok`] | The clients: one file for each AWS service, and TikTok Shop's API |
//! | `services` | The settings and the clients, which all invocations of a warm environment share |
//! | `refresh` | One integration: acquire the lease, call TikTok, save the pair |
//! | `run` | Many integrations: scan, work loop, marking, fan-out over the queue |
//! | [`actions`] | All other actions: `ensure`, `status`, `verify`, `connect`, `connect_link`, `import`, `cleanup`, and the queue's messages |
//! | `http` | The public endpoint, to which TikTok redirects sellers: one path, small pages |
//! | [`handler`] | Turns one event into one response |
//! | `main.rs`, `cli`, `local` | The Lambda function, the operator's command and the local stack |
//!
//! `cli` and `local` are features. The command calls the function only through Lambda's Invoke API, so an operator sees what
//! production does. The local stack serves this API on one machine, with an embedded DynamoDB and a stand-in for TikTok Shop.

pub mod actions;
pub mod aws;
#[cfg(feature = "cli")]
pub mod cli;
pub mod domain;
pub mod event;
pub mod handler;
mod http;
#[cfg(feature = "local")]
pub mod local;
pub mod logging;
mod refresh;
pub mod response;
mod run;
mod services;
pub mod settings;
pub mod status_report;
pub mod tiktok;
