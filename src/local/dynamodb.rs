//! An embedded DynamoDB: dynoxide, served over HTTP by this process, in memory or in a file.

use aws_sdk_dynamodb::{
    Client,
    error::DisplayErrorContext,
    types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType},
};
use dynoxide::Database;
use std::{io, net::SocketAddr, path::Path};
use tokio::net::TcpListener;

/// Starts the server on a free port and returns its address. The server runs until the process exits.
///
/// # Errors
/// An I/O error if `file` cannot be opened as a database, or no port is free.
pub async fn serve(file: Option<&Path>) -> io::Result<SocketAddr> {
    serve_on(TcpListener::bind("127.0.0.1:0").await?, file)
}

/// As [`serve`], at the listener's address.
///
/// # Errors
/// An I/O error if `file` cannot be opened as a database.
pub fn serve_on(listener: TcpListener, file: Option<&Path>) -> io::Result<SocketAddr> {
    let database = match file {
        None => Database::memory(),
        Some(file) => Database::new(&file.to_string_lossy()),
    };
    let database = database.map_err(|error| io::Error::other(error.to_string()))?;
    let address = listener.local_addr()?;
    tokio::spawn(dynoxide::server::serve_on(listener, database));
    Ok(address)
}

/// Creates the table as the SAM template does, with two string keys and on-demand capacity. Returns false if the table
/// exists already.
///
/// # Errors
/// An I/O error that describes DynamoDB's error.
pub async fn create_table(client: &Client, table: &str) -> io::Result<bool> {
    if client.describe_table().table_name(table).send().await.is_ok() {
        return Ok(false);
    }
    let mut create = client.create_table().table_name(table).billing_mode(BillingMode::PayPerRequest);
    for (name, kind) in [("team_id", KeyType::Hash), ("integration_id", KeyType::Range)] {
        let attribute = AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::S)
            .build();
        let key = KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
        create = create
            .attribute_definitions(attribute.map_err(io::Error::other)?)
            .key_schema(key.map_err(io::Error::other)?);
    }
    create.send().await.map_err(|error| io::Error::other(DisplayErrorContext(error).to_string()))?;
    Ok(true)
}
