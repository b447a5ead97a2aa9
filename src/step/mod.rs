//! The content of a queue message: which step of which execution to run or to stop; and the queue
//! that it came from.

mod arn;
mod key;
mod message;
mod queue_url;
mod quoted;
mod stop_reason;
mod token;
mod trace;
mod trace_ids;

pub(crate) use arn::is_account;
pub use arn::{ExecutionArn, InvalidArn};
pub use key::{InvalidKey, StepKey};
pub use message::{Message, Step, Unreadable};
pub use queue_url::{InvalidQueueUrl, QueueUrl};
pub use quoted::Quoted;
pub use stop_reason::StopReason;
pub use token::{CallbackToken, InvalidToken};
pub use trace::{InvalidTrace, TraceHeader};
#[doc(hidden)]
pub use trace_ids::{SpanId, TraceIds};
