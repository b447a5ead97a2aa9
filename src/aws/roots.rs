//! The authorities of [`trust`](crate::trust), as the SDK takes them.

use aws_smithy_http_client::tls::{TlsContext, TrustStore};

use crate::trust;
pub use crate::trust::NoBundle;

/// What connections trust; `None` means the system's own authorities. If the bundle cannot be read,
/// or the system has no authorities, nothing is trusted.
pub(super) fn context() -> Option<TlsContext> {
    let certificates = match trust::bundle() {
        Ok(Some(certificates)) => certificates,
        Ok(None) if trust::system_has_some() => return None,
        Ok(None) | Err(_) => Vec::new(),
    };
    let mut trusted = TrustStore::empty();
    for certificate in certificates {
        trusted.add_pem_certificate(certificate);
    }
    TlsContext::builder().with_trust_store(trusted).build().ok()
}

/// Whether the bundle, if one is named, can be used.
///
/// # Errors
/// [`NoBundle`].
pub(super) fn check() -> Result<(), NoBundle> {
    trust::bundle().map(drop)
}
