//! The memory pages of this process.

use nix::sys::prctl;

/// Disables huge pages, even if the allocator requests them: they cost an idle worker 14 MiB
/// without a benefit. Forked processes inherit this unless they undo it.
pub fn keep_small() {
    if let Err(error) = prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages could not be disabled; the worker uses more memory \
                                 than it needs");
    }
}
