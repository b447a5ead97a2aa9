//! The phase of the worker's shutdown.

/// Where the worker is between its start and its end; it only moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    #[default]
    Running,
    /// Nothing is started any more. Runs continue, and all other steps are given back.
    Draining,
    /// Runs are told to end, and their steps are released.
    Stopping,
    /// Remaining runs are dropped.
    Leaving,
}
