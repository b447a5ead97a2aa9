//! What the clients use outside this process: the network, the wall clock, the source of
//! credentials.

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::time::SharedTimeSource;

use super::http::Connections;

/// The real ones by default. A deterministic test brings its own.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Used by every client, including the credential providers' own.
    pub http: Connections,
    /// The time by which requests are signed and credentials expire.
    pub time: SharedTimeSource,
    /// Our credentials without a role; by default what the SDK's chain finds.
    pub credentials: Option<SharedCredentialsProvider>,
}
