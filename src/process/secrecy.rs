//! Keeps this process's memory and environment private: credentials, tokens.

use nix::sys::prctl;

/// Has the kernel refuse other processes of the same user access to this one (`/proc/PID/environ`,
/// `mem`, ptrace), including handlers' programs. The price is core dumps. Root is not refused.
pub fn keep() {
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(
            event = "memory_readable",
            %error,
            "other processes of this user can read the daemon's environment and memory"
        );
    }
}
