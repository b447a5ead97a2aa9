//! The body of a message whose step is in the ledger, rebuilt from there.

use futures_util::future::BoxFuture;

use super::messages::Bodies;
use super::shared::Shared;
use crate::lifecycle::Status;
use crate::step::{CallbackToken, Message};

impl Bodies for Shared {
    fn body<'a>(&'a self, token: &'a CallbackToken, stop: bool) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let record = match self.ledger.load(token).await {
                Ok(stored) => stored?,
                Err(error) => {
                    if let Some(more) = self.said.again("not copied") {
                        tracing::warn!(
                            event = "copy_not_rebuilt",
                            %token,
                            %error,
                            more,
                            "a message cannot be replaced by a fresh copy yet"
                        );
                    }
                    return None;
                }
            };
            // A copy of an unconfirmed stop would be younger than the step, and would be believed
            // for that reason.
            if stop && (record.stop_requested.is_none() || record.returned.is_some()) {
                return None;
            }
            let mut known = record.step();
            match record.returned {
                Some(returned) => known.arguments = returned.arguments,
                // It has no arguments any more, and its message is about to be deleted.
                None if record.status == Status::Settled => return None,
                None => {}
            }
            Some(if stop { Message::Stop(known) } else { Message::Work(known) }.to_body())
        })
    }
}
