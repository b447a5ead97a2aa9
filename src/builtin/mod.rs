//! The handler types that every callbackd binary has.

pub mod exec;

use crate::handler::Registry;

impl Registry {
    /// The handler types of the stock binary: `exec`, which runs a program.
    #[must_use]
    pub fn with_builtins() -> Self {
        Self::new().handler("exec", exec::Exec::new)
    }
}
