//! The certificate authorities that TLS trusts: those of `AWS_CA_BUNDLE` in place of the system's,
//! as in the AWS CLI. The SDK for Rust does not know that variable.

#[cfg(feature = "http-handler")]
use std::net::IpAddr;
use std::path::PathBuf;
#[cfg(feature = "http-handler")]
use std::sync::Arc;
use std::sync::LazyLock;

#[cfg(feature = "http-handler")]
use rustls::ClientConfig;
use rustls::RootCertStore;
#[cfg(feature = "http-handler")]
use rustls::crypto::aws_lc_rs as cryptography;
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
fn roots() -> RootCertStore {
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

/// The settings of a client. The authorities are read only if it speaks TLS.
///
/// # Errors
/// If the cryptography has no version of TLS in common with ours.
#[cfg(feature = "http-handler")]
pub(crate) fn client(speaks_tls: bool) -> Result<ClientConfig, rustls::Error> {
    let roots = if speaks_tls { ROOTS.clone() } else { RootCertStore::empty().into() };
    let mut config = ClientConfig::builder_with_provider(cryptography::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether an address is on this machine. A proxy would ask its own.
#[cfg(feature = "http-handler")]
pub(crate) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(feature = "http-handler")]
static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| Arc::new(roots()));

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
