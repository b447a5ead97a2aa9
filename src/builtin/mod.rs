//! The handler types that every binary of ours has.

use crate::handler::{Registry, RegistryError};

/// Registers the built-in types.
///
/// # Errors
/// [`RegistryError`] where a name is taken already.
pub fn register(_registry: &mut Registry) -> Result<(), RegistryError> {
    Ok(())
}
