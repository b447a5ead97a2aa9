//! What the clients meet beyond this process: the network, the wall clock, whoever gives out
//! credentials.

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::time::SharedTimeSource;

use super::http::Connections;

/// By default the real ones. A test that leaves nothing to chance brings its own.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Under every client, the credential providers' own included.
    pub http: Connections,
    /// By which requests are signed and credentials expire.
    pub time: SharedTimeSource,
    /// Who we are where no role is assumed; by default what the SDK's chain finds.
    pub credentials: Option<SharedCredentialsProvider>,
}
