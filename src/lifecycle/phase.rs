//! How far the worker is on its way out.

/// Where the worker stands between its start and its end; it only ever moves on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    #[default]
    Running,
    /// Nothing is started any more. What runs goes on, and what is not under way is given back.
    Draining,
    /// Runs are told to end, and their steps are released.
    Stopping,
    /// Whatever still runs is dropped.
    Leaving,
}
