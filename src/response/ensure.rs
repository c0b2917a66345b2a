//! The response to `ensure`.

use crate::domain::{ensure::Answer, integration::IntegrationKey};
use serde::Serialize;

/// The response to `ensure`: whether the stored access token is usable. The token itself is read from the table.
#[derive(Clone, Debug, Serialize)]
pub struct EnsureResponse {
    action: &'static str,
    /// The integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// Whether the stored access token is usable now.
    pub valid: bool,
    /// How the request ended.
    #[serde(flatten)]
    pub answer: Answer,
    /// The seller's name, if the row has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seller_name: Option<String>,
}

impl EnsureResponse {
    /// Creates the response about an integration.
    pub fn new(key: IntegrationKey, seller_name: Option<String>, answer: Answer) -> Self {
        Self { action: "ensure", key, valid: answer.outcome.is_valid(), answer, seller_name }
    }
}
