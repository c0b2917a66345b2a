//! The pure core: rows, settings and the current time go in, decisions come out. This module does no I/O and imports from no
//! other folder. Only [`clock::Clock::system`] reads the clock.

pub mod adaptive_rate;
pub mod blanks;
pub mod bounded_list;
pub mod circuit_breaker;
pub mod clock;
pub mod connect_link;
pub mod display;
pub mod due;
pub mod duration;
pub mod ensure;
pub mod gauges;
pub mod grant;
pub mod import;
pub mod integration;
pub mod latency;
pub mod loopback;
pub mod message;
pub mod outcome;
pub mod proof;
pub mod quoted;
pub mod reason;
pub mod refused_credentials;
pub mod report_row;
pub mod retry_policy;
pub mod root_cause;
pub mod secret;
pub mod selection;
pub mod shop;
