//! The handler types that every callbackd binary has.

pub mod exec;
mod given;
#[cfg(feature = "http-handler")]
pub mod http;

use crate::handler::Registry;

impl Registry {
    /// The handler types of the stock binary: `exec`, which runs a program, and `http`, which calls
    /// a service (Cargo feature `http-handler`, on by default).
    #[must_use]
    pub fn with_builtins() -> Self {
        let registry = Self::new().handler("exec", exec::Exec::new);
        #[cfg(feature = "http-handler")]
        let registry = registry.handler("http", http::Http::new);
        registry
    }
}
