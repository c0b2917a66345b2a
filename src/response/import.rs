//! The response to `import`.

use crate::domain::import::RowId;
use serde::Serialize;

/// The response to `import`: what became of each row, in the order of the request.
#[derive(Clone, Debug, Serialize)]
pub struct ImportResponse {
    action: &'static str,
    /// Whether this was a dry run, which writes nothing.
    pub dry_run: bool,
    /// The number of rows by outcome.
    pub counts: ImportCounts,
    /// The rows.
    pub integrations: Vec<ImportReport>,
}

/// The number of rows by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportCounts {
    /// See [`ImportOutcome`].
    pub created: u64,
    /// See [`ImportOutcome`].
    pub would_create: u64,
    /// See [`ImportOutcome`].
    pub exists: u64,
    /// See [`ImportOutcome`].
    pub invalid: u64,
    /// See [`ImportOutcome`].
    pub not_written: u64,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportOutcome {
    /// The row is new in the table.
    Created,
    /// A request that is not a dry run would create it.
    WouldCreate,
    /// The table has a row with this key, which stays as it is.
    Exists,
    /// The row is not as it should be; `reason` and `message` say why.
    Invalid,
    /// Another row of the request is invalid, or the write failed.
    NotWritten,
}

/// The result for one row.
#[derive(Clone, Debug, Serialize)]
pub struct ImportReport {
    /// The ids, as far as they could be read.
    #[serde(flatten)]
    pub id: RowId,
    /// What became of the row.
    pub outcome: ImportOutcome,
    /// The machine-readable reason.
    pub reason: Option<&'static str>,
    /// The reason, for people.
    pub message: Option<String>,
}

impl ImportReport {
    /// A report without a reason.
    pub fn new(id: RowId, outcome: ImportOutcome) -> Self {
        Self { id, outcome, reason: None, message: None }
    }

    /// Sets the reason and the message.
    #[must_use]
    pub fn because(self, reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason: Some(reason), message: Some(message.into()), ..self }
    }
}

impl ImportResponse {
    /// Creates the response from the rows' reports.
    pub fn new(dry_run: bool, integrations: Vec<ImportReport>) -> Self {
        let mut counts = ImportCounts::default();
        for report in &integrations {
            *match report.outcome {
                ImportOutcome::Created => &mut counts.created,
                ImportOutcome::WouldCreate => &mut counts.would_create,
                ImportOutcome::Exists => &mut counts.exists,
                ImportOutcome::Invalid => &mut counts.invalid,
                ImportOutcome::NotWritten => &mut counts.not_written,
            } += 1;
        }
        Self { action: "import", dry_run, counts, integrations }
    }
}
