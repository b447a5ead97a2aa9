//! Which errors are the machine's fault and not the step's.

use std::error::Error;
use std::io;

use nix::errno::Errno;

use super::{CheckpointError, KeyError};
use crate::causes::causes;

/// What is wrong with the machine, as the `what` of `callbackd_impaired`; `None` if the error
/// concerns the requested thing itself.
#[must_use]
pub fn host_trouble(error: &io::Error) -> Option<&'static str> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::ENOSPC | Errno::EDQUOT => Some("space"),
        Errno::EMFILE | Errno::ENFILE => Some("descriptors"),
        Errno::ENOMEM => Some("memory"),
        Errno::EAGAIN => Some("processes"),
        Errno::EIO
        | Errno::ESTALE
        | Errno::EROFS
        | Errno::ETIMEDOUT
        | Errno::ENOTCONN
        | Errno::EREMOTEIO => Some("io"),
        _ => None,
    }
}

/// What is certainly wrong with the machine, whatever was requested.
pub(super) fn trouble_in(error: &(dyn Error + 'static)) -> Option<&'static str> {
    causes(error).find_map(|cause| {
        if matches!(cause.downcast_ref(), Some(CheckpointError::Failed(_)))
            || matches!(cause.downcast_ref(), Some(KeyError::Failed(_)))
        {
            return Some("ledger");
        }
        let trouble = cause.downcast_ref::<io::Error>().and_then(host_trouble);
        trouble.filter(|what| ["space", "descriptors", "memory"].contains(what))
    })
}
