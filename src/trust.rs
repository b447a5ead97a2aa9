//! The certificate authorities that TLS trusts: those of `AWS_CA_BUNDLE` in place of the system's,
//! as in the AWS CLI. The SDK for Rust does not know that variable.

use std::path::PathBuf;
use std::sync::LazyLock;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const VARIABLE: &str = "AWS_CA_BUNDLE";

/// The variable is set, but names no usable bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("AWS_CA_BUNDLE names {path}, {why}: name a PEM file with CA certificates, or unset it")]
pub struct NoBundle {
    path: String,
    why: String,
}

/// The certificates of the bundle, each as a PEM text; `None` if no bundle is named.
///
/// # Errors
/// [`NoBundle`].
pub(crate) fn bundle() -> Result<Option<Vec<String>>, NoBundle> {
    let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
    else {
        return Ok(None);
    };
    let failed = |why: String| NoBundle { path: path.display().to_string(), why };
    let text =
        std::fs::read(&path).map_err(|error| failed(format!("which cannot be read ({error})")))?;
    let certificates = usable(&String::from_utf8_lossy(&text));
    if certificates.is_empty() {
        return Err(failed("which holds no certificate that can be used".to_owned()));
    }
    Ok(Some(certificates))
}

/// Whether this machine has any certificate authorities. The SDK assumes so.
#[cfg(feature = "aws")]
pub(crate) fn system_has_some() -> bool {
    !SYSTEM.is_empty()
}

/// What is trusted; nothing if the bundle cannot be used.
#[cfg(feature = "http-handler")]
pub(crate) fn roots() -> RootCertStore {
    let mut trusted = RootCertStore::empty();
    match bundle() {
        Ok(None) => drop(trusted.add_parsable_certificates(SYSTEM.iter().cloned())),
        Ok(Some(certificates)) => drop(
            trusted.add_parsable_certificates(
                certificates
                    .iter()
                    .filter_map(|text| CertificateDer::from_pem_slice(text.as_bytes()).ok()),
            ),
        ),
        Err(_) => {}
    }
    trusted
}

/// The system's authorities, read once.
static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> = LazyLock::new(|| {
    let certificates = rustls_native_certs::load_native_certs().certs;
    if certificates.is_empty() {
        tracing::error!(
            event = "ca_certificates_missing",
            "this machine has no CA certificates (SSL_CERT_FILE, SSL_CERT_DIR, /etc/ssl/certs), so \
             no HTTPS connection can be made: install ca-certificates, or name a bundle with \
             AWS_CA_BUNDLE"
        );
    }
    certificates
});

/// The certificates in a PEM text that TLS can use, each as a separate text: one unusable
/// certificate would break all connections.
fn usable(text: &str) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = text.split(BEGIN).skip(1).filter_map(|rest| rest.split_once(END));
    let blocks = blocks.map(|(body, _)| format!("{BEGIN}{body}{END}\n"));
    let is_usable = |block: &String| {
        CertificateDer::from_pem_slice(block.as_bytes())
            .is_ok_and(|certificate| RootCertStore::empty().add(certificate).is_ok())
    };
    blocks.filter(is_usable).collect()
}
