//! What the function does for an event other than a refresh: one file for each action.

pub mod cleanup;
pub mod connect;
pub mod connect_link;
pub mod ensure;
pub(crate) mod import;
pub mod queue;
mod shops;
pub mod status;
pub mod verify;
