//! The world in which the specification is told.

pub mod aws;
pub mod logs;
pub mod silent;
pub mod world;

pub use aws::{Fault, Step};
pub use tiktok_token_refresh::local::tiktok::Behaviour;
pub use world::{NIGHT, World, days, hours, minutes};
