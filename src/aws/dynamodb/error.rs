//! The SDK's errors into ours, at the edge. The SDK's error of a failed condition prints the whole stored row, so
//! none of them travels on.

use crate::aws::Said;

/// What DynamoDB would not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such table.
    #[error("the table {table} does not exist in this account and region: check TABLE_NAME and AWS_REGION")]
    TableMissing {
        /// `TABLE_NAME`.
        table: String,
    },
    /// The function's role does not allow it.
    #[error(
        "access to the table {table} is denied: allow dynamodb:Scan, Query and UpdateItem on it, and its KMS key"
    )]
    AccessDenied {
        /// `TABLE_NAME`.
        table: String,
    },
    /// DynamoDB asks to slow down.
    #[error("DynamoDB throttles the table {table} ({code})")]
    Throttled {
        /// `TABLE_NAME`.
        table: String,
        /// DynamoDB's word for it.
        code: String,
    },
    /// No answer: no network, no credentials, time-out.
    #[error("DynamoDB gave no answer: {cause}")]
    Unanswered {
        /// The innermost cause.
        cause: String,
    },
    /// Anything else that DynamoDB said.
    #[error("DynamoDB refused a request for the table {table}: {code}")]
    Refused {
        /// `TABLE_NAME`.
        table: String,
        /// DynamoDB's word for it.
        code: String,
    },
}

impl StoreError {
    pub(super) fn of(said: Said, table: &str) -> Self {
        let table = table.to_owned();
        let code = match said {
            Said::Code(code) => code,
            Said::NoAnswer(cause) => return Self::Unanswered { cause },
        };
        match code.as_str() {
            "ResourceNotFoundException" => Self::TableMissing { table },
            "AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException" => {
                Self::AccessDenied { table }
            }
            "ThrottlingException"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "InternalServerError"
            | "ServiceUnavailable" => Self::Throttled { table, code },
            _ => Self::Refused { table, code },
        }
    }

    /// Whether trying again later can help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unanswered { .. } => true,
            Self::TableMissing { .. } | Self::AccessDenied { .. } | Self::Refused { .. } => false,
        }
    }
}
