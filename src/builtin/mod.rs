//! The handler types that every binary of ours has.

pub mod exec;

use crate::handler::{Registry, RegistryError};

/// Registers the built-in types: `exec`.
///
/// # Errors
/// [`RegistryError`] where a name is taken already.
pub fn register(registry: &mut Registry) -> Result<(), RegistryError> {
    registry.register("exec", exec::Exec::new)?;
    Ok(())
}
