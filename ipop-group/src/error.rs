//! Why something was not done, as people and programs are told it.

use axum::http::StatusCode;

/// A refusal, or a fault of the server's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("you may not do that here")]
    Forbidden,
    #[error("the access token is none, has expired, or was taken back: make one on the page of your account")]
    NoAccess,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
    /// A limit of the group's or the account's.
    #[error("{0}")]
    Full(String),
    #[error("too many requests: try again in a while")]
    TooMany,
    #[error("the server has too much to do: try again in a while")]
    Busy,
    /// Told to the operator, in the log.
    #[error("something is wrong with the server; its operator finds the reason in the log")]
    Internal(String),
}

impl Error {
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    /// The word by which programs know it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Forbidden => "forbidden",
            Self::NoAccess => "no_access",
            Self::Invalid(_) => "invalid",
            Self::Conflict(_) => "conflict",
            Self::Full(_) => "full",
            Self::TooMany => "too_many",
            Self::Busy => "busy",
            Self::Internal(_) => "internal",
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoAccess => StatusCode::UNAUTHORIZED,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Conflict(_) | Self::Full(_) => StatusCode::CONFLICT,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// To the log, if it is the server's fault.
    pub fn log(&self) {
        if let Self::Internal(reason) = self {
            tracing::error!("{reason}");
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Internal(format!("database: {error}"))
    }
}
