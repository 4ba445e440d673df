//! Why a file of accounts, rules or keys cannot be used.

use std::{fmt, io};

#[derive(Debug)]
pub(crate) enum FileError {
    Io(io::Error),
    /// What is wrong with its content, and in which line (from 1) if that is known.
    Content {
        line: Option<usize>,
        cause: String,
    },
}

impl FileError {
    pub(crate) fn line(line: usize, cause: impl Into<String>) -> Self {
        Self::Content { line: Some(line), cause: cause.into() }
    }

    pub(crate) fn content(cause: impl Into<String>) -> Self {
        Self::Content { line: None, cause: cause.into() }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Content { line: Some(line), cause } => write!(f, "line {line}: {cause}"),
            Self::Content { line: None, cause } => f.write_str(cause),
        }
    }
}

impl std::error::Error for FileError {}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
