//! Which errors are the machine's fault and not the step's.

use std::error::Error;
use std::io;

use nix::errno::Errno;

use super::CheckpointError;

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
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<CheckpointError>() {
            return Some("ledger");
        }
        let trouble = error.downcast_ref::<io::Error>().and_then(host_trouble);
        if trouble.is_some_and(|what| ["space", "descriptors", "memory"].contains(&what)) {
            return trouble;
        }
        cause = error.source();
    }
    None
}
