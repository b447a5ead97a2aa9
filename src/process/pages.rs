//! The pages of this process's memory.

use nix::sys::prctl;

/// Does without huge pages, also where the allocator asks for them: they cost an idle worker 14
/// MiB, and it has nothing to gain by them. Processes that it forks would do without too, unless
/// they undo it.
pub fn keep_small() {
    if let Err(error) = prctl::set_thp_disable(true) {
        tracing::debug!(%error, "the worker takes more memory than it needs");
    }
}
