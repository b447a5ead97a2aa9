//! What an operator means by a name.

use super::About;
use crate::step::QueueUrl;

/// The queues and handlers that orders may be about.
#[derive(Clone, Debug)]
pub struct Names {
    queues: Vec<QueueUrl>,
    handlers: Vec<String>,
}

/// The sort of thing that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Queue,
    Handler,
}

/// A name that does not say what is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmeant {
    #[error("no {sort} {name:?} is configured; there are: {known}")]
    Unknown { sort: &'static str, name: String, known: String },
    #[error("both a queue and a handler are named {0:?}")]
    Both(String),
    #[error("several queues are named {name:?}; give one of {urls}")]
    Several { name: String, urls: String },
}

impl Names {
    pub fn new(
        queues: impl IntoIterator<Item = QueueUrl>,
        handlers: impl IntoIterator<Item = String>,
    ) -> Self {
        Self { queues: queues.into_iter().collect(), handlers: handlers.into_iter().collect() }
    }

    /// What has this name: a queue also by any of its URLs. `sort` tells a queue and a handler
    /// apart that have the same.
    ///
    /// # Errors
    /// [`Unmeant`] lists what there is.
    pub fn meant(&self, name: &str, sort: Option<Sort>) -> Result<About, Unmeant> {
        let looks_for = |of| sort.is_none_or(|sort| sort == of);
        let is_it = |queue: &&QueueUrl| looks_for(Sort::Queue) && queue.is_meant_by(name);
        let queues: Vec<&QueueUrl> = self.queues.iter().filter(is_it).collect();
        let is_handler =
            looks_for(Sort::Handler) && self.handlers.iter().any(|known| known == name);
        match (&queues[..], is_handler) {
            ([], true) => Ok(About::Handler(name.to_owned())),
            ([], false) => Err(self.unknown(name, sort)),
            (_, true) => Err(Unmeant::Both(name.to_owned())),
            ([queue], false) => Ok(About::Queue((*queue).clone())),
            (_, false) => {
                let urls: Vec<&str> = queues.iter().map(|queue| queue.as_str()).collect();
                Err(Unmeant::Several { name: name.to_owned(), urls: urls.join(", ") })
            }
        }
    }

    fn unknown(&self, name: &str, sort: Option<Sort>) -> Unmeant {
        let queues = self.queues.iter().map(QueueUrl::as_str);
        let handlers = self.handlers.iter().map(String::as_str);
        let (sort, known): (_, Vec<&str>) = match sort {
            Some(Sort::Queue) => ("queue", queues.collect()),
            Some(Sort::Handler) => ("handler", handlers.collect()),
            None => ("queue or handler", queues.chain(handlers).collect()),
        };
        Unmeant::Unknown { sort, name: name.to_owned(), known: known.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_named_by_its_name_unless_that_is_ambiguous_or_by_any_url_of_it() {
        let queues: Vec<QueueUrl> = ["us-east-1", "eu-west-1"]
            .into_iter()
            .flat_map(|region| ["a", "b"].map(|name| (region, name)))
            .filter(|at| *at != ("eu-west-1", "b"))
            .map(|(region, name)| {
                let url = format!("https://sqs.{region}.amazonaws.com/123456789012/{name}");
                url.parse().expect("a URL")
            })
            .collect();
        let names = Names::new(queues.clone(), ["h".to_owned()]);
        let found = |wanted: &str| names.meant(wanted, Some(Sort::Queue));
        assert_eq!(found("b"), Ok(About::Queue(queues[1].clone())));
        let fips = "https://sqs-fips.eu-west-1.amazonaws.com/123456789012/a";
        assert_eq!(found(fips), Ok(About::Queue(queues[2].clone())));
        for (wanted, told) in [
            ("a", "several queues"),
            ("c", "/123456789012/b"),
            ("", "no queue"),
            ("h", "no queue"),
            ("\u{1b}[2J", "no queue \"\\u{1b}[2J\""),
        ] {
            let error = found(wanted).expect_err(wanted).to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
