//! `callbackd local`: the local endpoint alone.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, complain, say};
use crate::local::{Endpoint, Options};
use crate::process::signals::Signals;

#[derive(Args)]
pub(super) struct Arguments {
    /// Where to listen; only loopback is allowed, because there is no authentication.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4100")]
    listen: SocketAddr,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut signals = Signals::listen().map_err(Failure::runtime)?;
    let endpoint =
        Endpoint::start(arguments.listen, Options::default()).await.map_err(|error| {
            Failure::Runtime(format!(
                "the local endpoint cannot listen on {}: {error}; choose another with --listen",
                arguments.listen
            ))
        })?;
    let mut events = endpoint.events();
    complain(format_args!(
        "SQS and SageMaker Pipelines emulation on {url}; everything is lost when it ends\n  export \
         AWS_ENDPOINT_URL={url} AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1\n  export \
         AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local\n  aws --endpoint-url {url} sqs \
         create-queue --queue-name sagemaker-callbacks\nEach line on standard output is one event, \
         as JSON; end with Ctrl-C",
        url = endpoint.url(),
    ));
    loop {
        tokio::select! {
            _ = signals.next_end() => break,
            event = events.recv() => match event {
                Ok(event) => say(serde_json::to_string(&event).map_err(Failure::runtime)?),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(count)) => {
                    complain(format_args!("{count} events were not shown: standard output is read \
                                           too slowly"));
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => break,
            },
        }
    }
    endpoint.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
