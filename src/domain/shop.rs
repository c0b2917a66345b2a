//! A shop of a seller. An authorization may cover several.

use serde::Deserialize;

/// A shop that an authorization covers, as Get Authorized Shops describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Shop {
    /// The shop's id.
    pub id: String,
    /// The shop's name.
    #[serde(default)]
    pub name: String,
    /// The shop's market, such as `VN`.
    #[serde(default)]
    pub region: String,
    /// The identifier that later calls need to select the shop.
    #[serde(default)]
    pub cipher: String,
}
