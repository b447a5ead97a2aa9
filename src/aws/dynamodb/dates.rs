//! The service's time, as each of its answers names it.

use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use jiff::fmt::rfc2822;

use crate::clock::{ServiceClock, Source};

/// Passes the dates of answers to the clock. Those that are not what DynamoDB answers to the
/// request may be a proxy's, and count for nothing.
#[derive(Debug)]
pub(super) struct Dates(pub(super) ServiceClock);

/// When a request was sent.
#[derive(Debug)]
struct Sent(Duration);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Dates {
    fn name(&self) -> &'static str {
        "Dates"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(Sent(self.0.elapsed()));
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| rfc2822::parse(date).ok());
        if let (Ok(_), Some(date), Some(Sent(sent))) =
            (context.output_or_error(), date, bag.load::<Sent>())
        {
            self.0.hear(date.timestamp(), *sent);
        }
        Ok(())
    }
}
