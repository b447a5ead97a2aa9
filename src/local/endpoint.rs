//! The endpoint as a whole: started on an address, observed, stopped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::clock::Clock;
use super::events::Event;
use super::faults::{Armed, Rule};
use super::options::Options;
use super::server;
use super::service::Service;
use super::sts::ExternalIds;
use super::undocumented::Undocumented;

/// A running endpoint. It ends with [`shutdown`](Self::shutdown), or, without waiting for anything,
/// when dropped.
#[derive(Debug)]
pub struct Endpoint {
    addr: SocketAddr,
    url: String,
    service: Arc<Service>,
    serving: JoinHandle<()>,
    stopping: DropGuard,
}

impl Endpoint {
    /// Starts an endpoint on an address; with port 0 on any free port.
    ///
    /// # Errors
    /// `InvalidInput` for impossible options, and for an address that is not loopback unless
    /// [`allow_remote`](Options::allow_remote) is set; otherwise whatever prevents listening on the
    /// address.
    pub async fn start(addr: SocketAddr, options: Options) -> io::Result<Self> {
        let refuse = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
        options.check().map_err(refuse)?;
        if !addr.ip().is_loopback() && !options.allow_remote {
            let reason = format!(
                "{addr} is not a loopback address, and there is no authentication: anyone who \
                 reaches the port can do everything"
            );
            return Err(refuse(reason));
        }
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let url = options.public_url.clone().unwrap_or_else(|| format!("http://{addr}"));
        let stopping = CancellationToken::new();
        let service = Arc::new(Service::new(&url, options, Clock::start(), stopping.clone()));
        let serving = tokio::spawn(server::serve(listener, service.clone(), stopping.clone()));
        Ok(Self { addr, url, service, serving, stopping: stopping.drop_guard() })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The endpoint URL for clients.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All events from now on. A receiver that falls too far behind is told how many events it
    /// lost.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.service.events().subscribe()
    }

    /// Replaces the fault rules, and restarts their counts.
    ///
    /// # Errors
    /// A sentence about the first invalid rule; then nothing is replaced.
    pub fn set_faults(&self, rules: Vec<Rule>) -> Result<(), String> {
        super::faults::check(&rules)?;
        self.service.set_faults(rules, None);
        Ok(())
    }

    /// The fault rules, and how often each has struck.
    pub fn faults(&self) -> Vec<Armed> {
        self.service.faults()
    }

    /// Sets what AWS leaves undocumented, from the next call on.
    pub fn set_undocumented(&self, undocumented: Undocumented) {
        self.service.set_undocumented(undocumented);
    }

    /// Replaces the external ids that roles require, by the role's ARN.
    pub fn set_external_ids(&self, external_ids: ExternalIds) {
        self.service.set_external_ids(external_ids);
    }

    /// Stops listening, answers pending requests (long polls at once, with nothing), and returns
    /// when every connection is closed, after a few seconds at the latest.
    pub async fn shutdown(self) {
        drop(self.stopping);
        if let Err(error) = self.serving.await {
            tracing::error!(event = "endpoint_broke", %error, "the local endpoint's server broke");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_not_loopback_is_refused_unless_it_is_allowed() {
        let everywhere: SocketAddr = "0.0.0.0:0".parse().expect("an address");
        let refused = Endpoint::start(everywhere, Options::default()).await.expect_err("refused");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let allowed = Options { allow_remote: true, ..Options::default() };
        Endpoint::start(everywhere, allowed).await.expect("allowed").shutdown().await;
    }

    #[tokio::test]
    async fn options_that_cannot_be_are_refused() {
        let loopback: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        for wrong in [
            Options { account: "12".to_owned(), ..Options::default() },
            Options { region: "US East".to_owned(), ..Options::default() },
            Options {
                faults: vec![Rule::new("DeleteMessage", crate::local::Fault::Lose)],
                ..Options::default()
            },
        ] {
            let refused = Endpoint::start(loopback, wrong).await.expect_err("refused");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
