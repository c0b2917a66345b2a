//! Keeps the access tokens of TikTok Shop integrations alive, as a job on AWS Lambda that loses no token.
//!
//! An event becomes a [`event::Request`], becomes a stream of [`integration::Candidate`] rows (keys and expiries, no
//! tokens), each becomes a leased row (the only thing that can call TikTok), each becomes an
//! [`report::Outcome`], all become an [`answer::RefreshResponse`].
//!
//! | room | files | knows |
//! |---|---|---|
//! | the pure core | [`event`], [`answer`], [`report`], [`health`], [`integration`], [`grant`], [`message`], [`census`], [`breaker`], [`settings`], [`secret`], [`clock`] | each other, downward |
//! | adapters | [`tiktok`], [`store`], [`credentials`], [`queue`], [`announce`], [`metrics`], [`logging`] | one outside system each, the core, and [`sdk`], which the AWS ones share |
//! | the protocol | [`services`] (what they share), [`refresh`] (one integration), [`fleet`] (many), [`worker`] (the queue's messages), [`status`], [`verify`], [`connect`], [`cleanup`], [`handler`] (one event) | all of the above |
//! | the entries | `main.rs`, `local`, and `cli`, which knows the function by its answers alone | the handler |

pub mod actions;
pub mod aws;
#[cfg(feature = "cli")]
pub mod cli;
pub mod domain;
pub mod event;
pub mod handler;
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
