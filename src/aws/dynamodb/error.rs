//! Maps the SDK's errors to ours. The SDK's error of a failed condition prints the whole stored row, so none of them leaves
//! this folder.

use crate::aws::AwsError;

/// Why DynamoDB did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// There is no such table.
    #[error("the table {table} does not exist in this account and region: check TABLE_NAME and AWS_REGION")]
    TableMissing {
        /// `TABLE_NAME`.
        table: String,
    },
    /// The function's role does not allow it.
    #[error(
        "access to the table {table} is denied: allow dynamodb:Scan, Query, GetItem and UpdateItem on it, and the use of its KMS key"
    )]
    AccessDenied {
        /// `TABLE_NAME`.
        table: String,
    },
    /// DynamoDB is throttling, or has a temporary failure.
    #[error("DynamoDB is throttling or failing for the table {table} ({code})")]
    Throttled {
        /// `TABLE_NAME`.
        table: String,
        /// DynamoDB's error code.
        code: String,
    },
    /// The SDK finds no AWS credentials.
    #[error("there are no AWS credentials for the table {table}: {cause}")]
    NoCredentials {
        /// `TABLE_NAME`.
        table: String,
        /// The root cause.
        cause: String,
    },
    /// No response: no network, a time-out.
    #[error("no response from DynamoDB: {cause}")]
    NoResponse {
        /// The root cause.
        cause: String,
    },
    /// Any other error code.
    #[error("DynamoDB refused a request for the table {table}: {code}")]
    Refused {
        /// `TABLE_NAME`.
        table: String,
        /// DynamoDB's error code.
        code: String,
    },
}

impl TableError {
    pub(super) fn new(error: AwsError, table: &str) -> Self {
        let table = table.to_owned();
        let code = match error {
            AwsError::Code(code) => code,
            AwsError::NoResponse(cause) => return Self::NoResponse { cause },
            AwsError::NoCredentials(cause) => return Self::NoCredentials { table, cause },
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

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::NoResponse { .. } => true,
            Self::TableMissing { .. }
            | Self::AccessDenied { .. }
            | Self::NoCredentials { .. }
            | Self::Refused { .. } => false,
        }
    }
}
