//! All queues of an endpoint by name, and how to find one by its URL or ARN.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::attributes::Attributes;
use super::error;
use super::message::{Content, Message};
use super::queue::Queue;
use crate::local::call::Call;
use crate::local::clock::Time;
use crate::local::events::{EventKind, Events};
use crate::local::protocol::ApiError;

/// More queues than any drill has; a runaway script stops here.
const MAX_QUEUES: usize = 10_000;

/// The queues.
#[derive(Debug)]
pub(crate) struct Queues {
    /// The prefix of queue URLs: scheme, host, port and account.
    base: String,
    account: String,
    /// The prefix of queue ARNs.
    arn: String,
    by_name: BTreeMap<String, Queue>,
    created: u64,
}

impl Queues {
    /// `url` is scheme, host and port.
    pub(crate) fn new(url: &str, region: &str, account: &str) -> Self {
        Self {
            base: format!("{url}/{account}/"),
            account: account.to_owned(),
            arn: format!("arn:aws:sqs:{region}:{account}:"),
            by_name: BTreeMap::new(),
            created: 0,
        }
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.by_name.keys()
    }

    /// Creates a queue, or finds the existing one with the same attributes.
    ///
    /// # Errors
    /// `QueueNameExists` if its attributes differ, `InvalidParameterValue` for an invalid name.
    pub(crate) fn create(
        &mut self,
        name: &str,
        changes: &BTreeMap<String, String>,
        call: &mut Call<'_>,
    ) -> Result<(), ApiError> {
        let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.strip_suffix(".fifo").is_some() {
            return Err(error::unsupported("the local endpoint has standard queues only"));
        }
        if name.is_empty() || name.len() > 80 || !name.chars().all(named) {
            let reason = "Can only include alphanumeric characters, hyphens, or underscores. 1 to \
                          80 in length";
            return Err(error::invalid_parameter("QueueName", name, reason));
        }
        let attributes = self.checked(&Attributes::default(), changes)?;
        if let Some(existing) = self.by_name.get(name) {
            // Only attributes that the request names are compared.
            let same = self.checked(&existing.attributes, changes)? == existing.attributes;
            return if same { Ok(()) } else { Err(error::queue_name_exists()) };
        }
        if self.by_name.len() >= MAX_QUEUES {
            return Err(error::over_limit(format!(
                "the local endpoint has at most {MAX_QUEUES} queues"
            )));
        }
        self.created += 1;
        let arn = format!("{}{name}", self.arn);
        self.by_name
            .insert(name.to_owned(), Queue::new(name, arn, attributes, self.created, call.now));
        call.tell(|| EventKind::QueueCreated { queue: name.to_owned() });
        Ok(())
    }

    /// Changes attributes of a queue.
    pub(crate) fn set(
        &mut self,
        url: &str,
        changes: &BTreeMap<String, String>,
        call: &Call<'_>,
    ) -> Result<(), ApiError> {
        let name = self.get(url, call)?.name.clone();
        let present = self.by_name.get(&name).ok_or_else(error::queue_does_not_exist)?;
        let attributes = self.checked(&present.attributes, changes)?;
        let queue = self.by_name.get_mut(&name).ok_or_else(error::queue_does_not_exist)?;
        queue.attributes = attributes;
        queue.modified = call.now;
        Ok(())
    }

    pub(crate) fn delete(&mut self, url: &str, call: &Call<'_>) -> Result<(), ApiError> {
        let name = self.get(url, call)?.name.clone();
        if let Some(queue) = self.by_name.remove(&name) {
            queue.changed.notify_waiters();
        }
        call.tell(|| EventKind::QueueDeleted { queue: name });
        Ok(())
    }

    /// The queue of a URL, brought up to the present. Scheme, host and port do not matter, so a
    /// definition written for AWS finds its queue here.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub(crate) fn get(&mut self, url: &str, call: &Call<'_>) -> Result<&mut Queue, ApiError> {
        let name = self.name_of(url).ok_or_else(error::queue_does_not_exist)?.to_owned();
        self.named(&name, call.now, call.events).ok_or_else(error::queue_does_not_exist)
    }

    /// Whether there is a queue with this ARN.
    pub(crate) fn has(&self, arn: &str) -> bool {
        arn.strip_prefix(&self.arn).is_some_and(|name| self.by_name.contains_key(name))
    }

    /// Sends a message; returns its id.
    ///
    /// # Errors
    /// As [`get`](Self::get); `InvalidParameterValue` for a message that is too long.
    pub(crate) fn send(
        &mut self,
        url: &str,
        content: Content,
        delay: Option<Duration>,
        call: &mut Call<'_>,
    ) -> Result<Arc<str>, ApiError> {
        content.check()?;
        let message = Message::new(call.ids.uuid(), content, call.now);
        let queue = self.get(url, call)?;
        let (size, most) = (message.content.size(), queue.attributes.max_size);
        if size > most {
            let reason = format!("Message must be shorter than {most} bytes.");
            return Err(error::invalid_parameter(
                "MessageBody",
                format_args!("of {size} bytes"),
                reason,
            ));
        }
        let (id, body) = (message.id.clone(), message.content.body.clone());
        queue.check_room(size)?;
        queue.put(message, delay.unwrap_or(queue.attributes.delay), call.now);
        let queue = &queue.name;
        call.events.tell(call.now, || EventKind::MessageSent {
            queue: queue.clone(),
            id: id.clone(),
            body,
        });
        Ok(id)
    }

    /// Moves messages to their dead-letter queue.
    pub(crate) fn bury(
        &mut self,
        from: &str,
        target: &str,
        dead: Vec<Message>,
        call: &Call<'_>,
    ) -> Result<(), ApiError> {
        let source: Arc<str> = format!("{}{from}", self.arn).into();
        let name = target.strip_prefix(&self.arn).unwrap_or_default().to_owned();
        let queue =
            self.named(&name, call.now, call.events).ok_or_else(error::queue_does_not_exist)?;
        for message in dead {
            let (id, receives) = (message.id.clone(), message.receives);
            // Without regard to room: they are in some queue already, and must not be lost on the
            // way.
            queue.put(
                Message { source: Some(source.clone()), ..message },
                Duration::ZERO,
                call.now,
            );
            call.tell(|| EventKind::MessageDeadLettered {
                queue: from.to_owned(),
                to: name.clone(),
                id,
                receives,
            });
        }
        Ok(())
    }

    fn named(&mut self, name: &str, now: Time, events: &Events) -> Option<&mut Queue> {
        let queue = self.by_name.get_mut(name)?;
        for message in queue.catch_up(now) {
            events
                .tell(now, || EventKind::MessageExpired { queue: name.to_owned(), id: message.id });
        }
        Some(queue)
    }

    fn name_of<'a>(&self, url: &'a str) -> Option<&'a str> {
        let (rest, name) = url.rsplit_once('/')?;
        let (_, account) = rest.rsplit_once('/')?;
        (account == self.account).then_some(name)
    }

    /// The attributes, if the dead-letter queue that they name exists.
    fn checked(
        &self,
        present: &Attributes,
        changes: &BTreeMap<String, String>,
    ) -> Result<Attributes, ApiError> {
        let attributes = present.with(changes)?;
        if let (Some(policy), true) = (&attributes.redrive, changes.contains_key("RedrivePolicy"))
            && !self.has(&policy.target)
        {
            let value = changes.get("RedrivePolicy").map_or("", String::as_str);
            return Err(error::invalid_parameter(
                "RedrivePolicy",
                value,
                "Dead letter target does not exist.",
            ));
        }
        Ok(attributes)
    }
}
