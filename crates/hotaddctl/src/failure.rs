//! What can go wrong, and what the program ends with then.

use std::io;

use thiserror::Error;

use crate::ntstatus::NtStatus;

/// Exit codes, for people.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  fine
  1  a promise of the driver was broken, or output could not be written
  2  wrong usage
  3  no device
  4  access denied";

/// Why a command did not come to its end: one line that says what to do next.
#[derive(Debug, Error)]
pub enum Failure {
    /// The driver did what it should not.
    #[error("{0}")]
    Broken(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// There is no device, or it is gone.
    #[error("{0}")]
    NoDevice(String),
    /// The device is not for who runs this.
    #[error("{0}")]
    AccessDenied(String),
    /// Output could not be written.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// What the program ends with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // Whoever read the output has had enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Broken(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::NoDevice(_) => 3,
            Self::AccessDenied(_) => 4,
        }
    }

    /// For something that was asked and ended with an error.
    #[must_use]
    pub fn of_request(what: &str, status: NtStatus) -> Self {
        match status {
            NtStatus::ACCESS_DENIED => Self::access_denied(what),
            NtStatus::DELETE_PENDING | NtStatus::NO_SUCH_DEVICE => {
                Self::NoDevice(format!("{what}: the device was removed; `hotaddctl list` shows what is left"))
            }
            status => {
                Self::Broken(format!("{what} ended with {status}; `hotaddctl watch --from 0` tells what led to it"))
            }
        }
    }

    /// For something that who runs this may not.
    #[must_use]
    pub fn access_denied(what: &str) -> Self {
        Self::AccessDenied(format!(
            "{what}: access denied; run it as an administrator (users may only use `list` and `status`)"
        ))
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_documented_exit_code() {
        let ended = |status| Failure::of_request("asking", status).exit_code();
        assert_eq!(ended(NtStatus::IO_TIMEOUT), 1);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(ended(NtStatus::DELETE_PENDING), 3);
        assert_eq!(ended(NtStatus::ACCESS_DENIED), 4);
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).exit_code(), 1);
        assert_eq!(Failure::Output(io::ErrorKind::BrokenPipe.into()).exit_code(), 0);
    }
}
