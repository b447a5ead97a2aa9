//! What is in this process is for nobody else to read: credentials, tokens, its environment.

use nix::sys::prctl;

/// Has the kernel refuse other processes of the same user a look into this one
/// (`/proc/PID/environ`, `mem`, ptrace), handlers' programs among them. It costs core dumps. Root
/// is not refused.
pub fn keep() {
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(%error, "other processes of this user can read the daemon's environment and \
                                memory");
    }
}
