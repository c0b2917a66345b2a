//! The actions other than `refresh`, one file for each.

pub mod cleanup;
pub mod connect;
pub mod connect_link;
pub mod ensure;
pub(crate) mod import;
pub mod queue;
mod shops;
pub mod status;
pub mod verify;
