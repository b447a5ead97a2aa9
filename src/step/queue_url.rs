//! The URL of an SQS queue, parsed once.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::arn::is_account;
use super::quoted::Quoted;

/// `https://HOST/ACCOUNT/NAME`. The host is kept in lower case, and slashes at the end are dropped;
/// everything else is unchanged.
///
/// One queue has many URLs: with the service's host, its legacy host, a VPC endpoint, an emulator
/// under several names. Two values are equal if their texts are; whether they name one queue is
/// [`is_same_queue`](Self::is_same_queue).
#[derive(Clone)]
pub struct QueueUrl {
    /// Shared by everything that refers to one queue.
    text: Arc<str>,
    host: Span,
    region: Option<Span>,
    account: Span,
    name: Span,
}

/// Start and end in the text.
type Span = (u16, u16);

/// Why a text is not the URL of a queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum InvalidQueueUrl {
    #[error(
        "a queue's URL begins with https:// or http://, like \
         https://sqs.REGION.amazonaws.com/ACCOUNT/NAME: {0}"
    )]
    Scheme(Quoted),
    #[error("a queue's URL is at most 2048 bytes long: {0}")]
    Length(Quoted),
    /// The text is not repeated because it may contain a password.
    #[error("a queue's URL must not have a user or password before its host")]
    User,
    #[error("a queue's URL must not have a query or fragment: {0}")]
    Query(Quoted),
    #[error("a queue's URL must have a host, with or without a port: {0}")]
    Host(Quoted),
    #[error("a queue's URL must end in /ACCOUNT/NAME, with an account of twelve digits: {0}")]
    Account(Quoted),
    #[error(
        "a queue's name has 1 to 80 letters, digits, hyphens and underscores, optionally followed \
         by \".fifo\": {0}"
    )]
    Name(Quoted),
}

impl QueueUrl {
    /// Far longer than any real one; region, account and name need less than 200.
    const MAX: usize = 2048;

    /// In the form that SQS accepts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text, for sharing.
    pub(crate) fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// With the port, if the URL has one: `sqs.us-east-1.amazonaws.com`, `[::1]:4100`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.part(self.host)
    }

    /// Where calls for this queue go, `https://HOST`, if the host differs from the service's own
    /// for its region, `sqs.REGION.amazonaws.com` or `….com.cn`: a FIPS, dual-stack or VPC
    /// endpoint, an emulator.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        let is_standard = self.region().is_some_and(|region| {
            let rest = self.host().strip_prefix("sqs.").and_then(|rest| rest.strip_prefix(region));
            matches!(rest, Some(".amazonaws.com" | ".amazonaws.com.cn"))
        });
        (!is_standard).then(|| &self.text[..usize::from(self.host.1)])
    }

    /// The region that the host names: `sqs.REGION.amazonaws.com` in all its spellings (FIPS,
    /// dual-stack, VPC endpoints, other partitions, the legacy `REGION.queue.amazonaws.com`);
    /// `None` if it names none, as with most emulators.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        match self.region {
            Some(span) => Some(self.part(span)),
            // The first region's legacy host does not contain its name.
            None => (self.host() == "queue.amazonaws.com").then_some("us-east-1"),
        }
    }

    /// The twelve digits of the account that owns the queue.
    #[must_use]
    pub fn account(&self) -> &str {
        self.part(self.account)
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.part(self.name)
    }

    /// Whether it is a FIFO queue, whose messages need a group that a callback step cannot set.
    #[must_use]
    pub fn is_fifo(&self) -> bool {
        self.name().ends_with(FIFO)
    }

    /// Whether both name the same queue: account and name are equal, and so are the regions if both
    /// are known.
    #[must_use]
    pub fn is_same_queue(&self, other: &Self) -> bool {
        let regions_differ =
            || self.region().zip(other.region()).is_some_and(|(one, other)| one != other);
        self.name() == other.name() && self.account() == other.account() && !regions_differ()
    }

    /// Whether an operator means it: by its name, or by any URL of it.
    #[must_use]
    pub fn is_meant_by(&self, text: &str) -> bool {
        match text.parse() {
            Ok(url) => self.is_same_queue(&url),
            Err(_) => self.name() == text,
        }
    }

    fn part(&self, (start, end): Span) -> &str {
        &self.text[usize::from(start)..usize::from(end)]
    }
}

const FIFO: &str = ".fifo";

impl FromStr for QueueUrl {
    type Err = InvalidQueueUrl;

    fn from_str(text: &str) -> Result<Self, InvalidQueueUrl> {
        let quoted = || Quoted::new(text);
        if text.len() > Self::MAX {
            return Err(InvalidQueueUrl::Length(quoted()));
        }
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| InvalidQueueUrl::Scheme(quoted()))?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "https" && scheme != "http" {
            return Err(InvalidQueueUrl::Scheme(quoted()));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(InvalidQueueUrl::User);
        }
        if path.contains(['?', '#']) {
            return Err(InvalidQueueUrl::Query(quoted()));
        }
        if !is_authority(authority) {
            return Err(InvalidQueueUrl::Host(quoted()));
        }
        let path = path.trim_end_matches('/');
        // An emulator or a proxy may put more in front of the account.
        let (before, name) =
            path.rsplit_once('/').ok_or_else(|| InvalidQueueUrl::Account(quoted()))?;
        let (_, account) =
            before.rsplit_once('/').ok_or_else(|| InvalidQueueUrl::Account(quoted()))?;
        if !is_account(account) {
            return Err(InvalidQueueUrl::Account(quoted()));
        }
        if !is_name(name) || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(InvalidQueueUrl::Name(quoted()));
        }

        let host = authority.to_ascii_lowercase();
        let text = format!("{scheme}://{host}{path}");
        let too_long = || InvalidQueueUrl::Length(Quoted::new(&text));
        let span = |start: usize, length: usize| -> Option<Span> {
            Some((u16::try_from(start).ok()?, u16::try_from(start + length).ok()?))
        };
        let host_at = scheme.len() + 3;
        let name_at = text.len() - name.len();
        let account_at = name_at - 1 - account.len();
        Ok(Self {
            region: region(&host).and_then(|(at, region)| span(host_at + at, region.len())),
            host: span(host_at, host.len()).ok_or_else(too_long)?,
            account: span(account_at, account.len()).ok_or_else(too_long)?,
            name: span(name_at, name.len()).ok_or_else(too_long)?,
            text: text.into(),
        })
    }
}

/// A host name, an IPv4 address or a bracketed IPv6 one, with an optional port.
fn is_authority(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let (is_host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        // The connecting client parses it completely.
        Some(Some((address, port))) => (
            address.contains(':')
                && address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte)),
            port,
        ),
        Some(None) => (false, ""),
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (host.split('.').all(is_label), port)
        }
    };
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_name(text: &str) -> bool {
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    text.len() <= 80 && plain(text.strip_suffix(FIFO).unwrap_or(text))
}

/// The region in a host, and where it begins. It follows `sqs` or `sqs-fips`, or precedes the
/// legacy `queue`.
fn region(host: &str) -> Option<(usize, &str)> {
    let labels: Vec<&str> = host.split('.').collect();
    let place = |names: &[&str]| labels.iter().position(|label| names.contains(label));
    let after_sqs = place(&["sqs", "sqs-fips"]).map(|at| at + 1);
    let after_sqs = after_sqs.map(|at| at + usize::from(labels.get(at) == Some(&"dualstack")));
    let at = after_sqs.or_else(|| place(&["queue"])?.checked_sub(1))?;
    let region = labels.get(at).copied().filter(|label| is_region(label))?;
    Some((labels[..at].iter().map(|label| label.len() + 1).sum(), region))
}

/// `eu-west-1`, `us-gov-east-1`: two words or more, then a number.
fn is_region(text: &str) -> bool {
    let mut parts = text.rsplit('-');
    let number = parts
        .next()
        .is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let words: Vec<&str> = parts.collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    number && words.len() >= 2 && words.iter().all(word)
}

impl fmt::Display for QueueUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for QueueUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QueueUrl").field(&self.text).finish()
    }
}

impl PartialEq for QueueUrl {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for QueueUrl {}

impl PartialOrd for QueueUrl {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for QueueUrl {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for QueueUrl {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Serialize for QueueUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for QueueUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-callbacks";

    fn url(text: &str) -> QueueUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> String {
        text.parse::<QueueUrl>().expect_err(text).to_string()
    }

    #[test]
    fn every_spelling_of_a_host_names_its_region() {
        for (host, region) in [
            ("https://sqs.us-east-1.amazonaws.com", Some("us-east-1")),
            ("https://sqs.us-east-1.amazonaws.com:443", Some("us-east-1")),
            ("https://SQS.EU-West-1.amazonaws.com", Some("eu-west-1")),
            ("https://sqs-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("https://sqs.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("https://sqs.eu-central-1.api.aws", Some("eu-central-1")),
            ("https://sqs-fips.us-east-2.api.aws", Some("us-east-2")),
            ("https://sqs.cn-north-1.api.amazonwebservices.com.cn", Some("cn-north-1")),
            ("https://sqs.dualstack.eu-north-1.amazonaws.com", Some("eu-north-1")),
            ("https://vpce-0a-1b.sqs.ap-southeast-2.vpce.amazonaws.com", Some("ap-southeast-2")),
            ("https://vpce-0a-1b-us-west-2a.sqs.us-west-2.vpce.amazonaws.com", Some("us-west-2")),
            ("https://us-west-2.queue.amazonaws.com", Some("us-west-2")),
            ("https://cn-northwest-1.queue.amazonaws.com.cn", Some("cn-northwest-1")),
            ("https://queue.amazonaws.com", Some("us-east-1")),
            ("http://sqs.us-east-1.localhost.localstack.cloud:4566", Some("us-east-1")),
            ("http://localhost:4566/queue/us-east-1", None),
            ("http://localhost", None),
            ("http://127.0.0.1:5000", None),
            ("http://[::1]:4100", None),
            ("http://[2001:db8::7]", None),
            ("https://sqs", None),
            ("https://queue", None),
            ("https://queue.example.com", None),
            ("https://sqs.example.com", None),
            ("https://example.com/gateway/sqs", None),
        ] {
            for end in ["", "/", "//"] {
                let url = url(&format!("{host}/123456789012/q_1-A{end}"));
                assert_eq!(
                    (url.region(), url.account(), url.name()),
                    (region, "123456789012", "q_1-A"),
                    "{url}"
                );
            }
        }
    }

    #[test]
    fn the_host_is_told_with_its_port() {
        for (text, host) in [
            (PLAIN, "sqs.us-east-1.amazonaws.com"),
            ("HTTP://LocalHost:4566/000000000000/q", "localhost:4566"),
            ("http://[::1]:4100/123456789012/q", "[::1]:4100"),
            ("http://[2001:DB8::7]/x/123456789012/q", "[2001:db8::7]"),
        ] {
            assert_eq!(url(text).host(), host);
        }
        assert_eq!(
            url("HTTP://LocalHost:4566/000000000000/Q//").as_str(),
            "http://localhost:4566/000000000000/Q"
        );
    }

    #[test]
    fn what_is_no_queues_url_says_what_is_wrong_and_quotes_it() {
        let long = format!("https://h/123456789012/{}", "q".repeat(81));
        let far_too_long = format!("https://h/{}/123456789012/q", "x".repeat(2048));
        for (text, wants) in [
            ("", "begins with https://"),
            ("sqs.us-east-1.amazonaws.com/123456789012/q", "begins with https://"),
            ("arn:aws:sqs:us-east-1:123456789012:q", "begins with https://"),
            ("ftp://sqs.us-east-1.amazonaws.com/123456789012/q", "begins with https://"),
            ("https:/sqs.us-east-1.amazonaws.com/123456789012/q", "begins with https://"),
            ("https:///123456789012/q", "must have a host"),
            ("https://a..b/123456789012/q", "must have a host"),
            ("https://a b/123456789012/q", "must have a host"),
            ("https://ä/123456789012/q", "must have a host"),
            ("https://:80/123456789012/q", "must have a host"),
            ("https://h:/123456789012/q", "must have a host"),
            ("https://h:0/123456789012/q", "must have a host"),
            ("https://h:65536/123456789012/q", "must have a host"),
            ("https://h:+80/123456789012/q", "must have a host"),
            ("https://::1/123456789012/q", "must have a host"),
            ("https://[::1/123456789012/q", "must have a host"),
            ("https://[::g]/123456789012/q", "must have a host"),
            ("https://[::1]x/123456789012/q", "must have a host"),
            ("https://h", "must end in /ACCOUNT/NAME"),
            ("https://h/", "must end in /ACCOUNT/NAME"),
            ("https://h/q", "must end in /ACCOUNT/NAME"),
            ("https://h/queue/q", "must end in /ACCOUNT/NAME"),
            ("https://h/12345678901/q", "must end in /ACCOUNT/NAME"),
            ("https://h/12345678901x/q", "must end in /ACCOUNT/NAME"),
            ("https://h/123456789012/", "must end in /ACCOUNT/NAME"),
            ("https://h/123456789012//q", "must end in /ACCOUNT/NAME"),
            ("https://h/123456789012/a.b", "a queue's name"),
            ("https://h/123456789012/.fifo", "a queue's name"),
            ("https://h/123456789012/q%20", "a queue's name"),
            ("https://h/123456789012/q\n", "a queue's name"),
            ("https://h/a\nb/123456789012/q", "a queue's name"),
            (&long, "a queue's name"),
            (&far_too_long, "at most 2048"),
            ("https://h/123456789012/q?x=1", "must not have a query"),
            ("https://h?/123456789012/q", "must not have a query"),
            ("https://h/123456789012/q#top", "must not have a query"),
        ] {
            let told = refused(text);
            assert!(told.contains(wants), "{text}: {told}");
            let head: String = text.chars().take(20).collect();
            assert!(told.contains(&head.escape_debug().to_string()), "{told}");
            assert!(!told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for text in
            ["https://me:hunter2@h/123456789012/q", "https://me:hunter2@h?x", "http://hunter2@/"]
        {
            let told = refused(text);
            assert!(
                told.contains("must not have a user or password") && !told.contains("hunter2"),
                "{told}"
            );
        }
    }

    #[test]
    fn names_are_as_long_as_sqs_allows_and_fifo_counts() {
        let named = |name: &str| format!("https://h/123456789012/{name}").parse::<QueueUrl>();
        assert!(named(&"q".repeat(80)).is_ok_and(|url| !url.is_fifo()));
        assert!(named(&format!("{}.fifo", "q".repeat(75))).is_ok_and(|url| url.is_fifo()));
        assert!(named(&format!("{}.fifo", "q".repeat(76))).is_err());
        assert!(named("fifo").is_ok_and(|url| !url.is_fifo()));
    }

    #[test]
    fn queues_are_told_apart_by_account_name_and_region_not_by_host() {
        let one = url("https://sqs.us-east-1.amazonaws.com/123456789012/q");
        for same in [
            "https://sqs.us-east-1.amazonaws.com/123456789012/q/",
            "https://queue.amazonaws.com/123456789012/q",
            "https://us-east-1.queue.amazonaws.com/123456789012/q",
            "https://vpce-1.sqs.us-east-1.vpce.amazonaws.com/123456789012/q",
            "https://sqs-fips.us-east-1.api.aws/123456789012/q",
            "http://127.0.0.1:5000/123456789012/q",
            "http://localhost:5000/queue/123456789012/q",
        ] {
            assert!(one.is_same_queue(&url(same)) && url(same).is_same_queue(&one), "{same}");
        }
        for other in [
            "https://sqs.us-east-1.amazonaws.com/123456789012/r",
            "https://sqs.us-east-1.amazonaws.com/123456789012/Q",
            "https://sqs.us-east-1.amazonaws.com/210987654321/q",
            "https://sqs.us-east-2.amazonaws.com/123456789012/q",
            "http://localhost:5000/210987654321/q",
        ] {
            assert!(!one.is_same_queue(&url(other)) && !url(other).is_same_queue(&one), "{other}");
        }
    }

    #[test]
    fn a_host_that_is_not_the_services_own_is_where_calls_go() {
        for host in [
            "sqs.us-east-1.amazonaws.com",
            "sqs.cn-north-1.amazonaws.com.cn",
            "SQS.us-gov-west-1.amazonaws.com",
        ] {
            assert_eq!(url(&format!("https://{host}/123456789012/q")).endpoint(), None, "{host}");
        }
        for endpoint in [
            "https://sqs-fips.us-east-1.amazonaws.com",
            "https://vpce-1-a.sqs.us-east-1.vpce.amazonaws.com",
            "https://sqs.us-east-1.api.aws",
            "https://queue.amazonaws.com",
            "https://sqs.us-east-1.amazonaws.com:8443",
            "http://127.0.0.1:4100",
            "http://[::1]:4100",
        ] {
            assert_eq!(url(&format!("{endpoint}/123456789012/q")).endpoint(), Some(endpoint));
        }
        assert_eq!(
            url("http://localhost:9324/queue/123456789012/q").endpoint(),
            Some("http://localhost:9324")
        );
    }

    #[test]
    fn in_json_it_is_its_text() {
        let json = format!("{PLAIN:?}");
        let read: QueueUrl = serde_json::from_str(&json).expect("a URL");
        assert_eq!((read.as_str(), serde_json::to_string(&read).ok()), (PLAIN, Some(json)));
        let error = serde_json::from_str::<QueueUrl>("\"q\"").expect_err("no URL").to_string();
        assert!(error.contains("begins with https://"), "{error}");
    }

    #[test]
    fn equality_order_and_hash_are_those_of_the_text() {
        let (one, again) = (
            url("https://sqs.us-east-1.amazonaws.com/123456789012/q"),
            url("https://queue.amazonaws.com/123456789012/q"),
        );
        assert_ne!(one, again);
        assert_eq!(one, url("https://SQS.us-east-1.amazonaws.com/123456789012/q/"));
        assert_eq!(one.cmp(&again), one.as_str().cmp(again.as_str()));
        assert_eq!(
            format!("{one:?} {one}"),
            format!("QueueUrl({:?}) {}", one.as_str(), one.as_str())
        );
    }

    proptest! {
        #[test]
        fn no_text_whatever_makes_the_parser_panic(text in "(https?://)?[\\PC\\[\\]:@/?#.]{0,60}(/[0-9]{11,13})?(/\\PC{0,90})?") {
            if let Ok(url) = text.parse::<QueueUrl>() {
                prop_assert_eq!(url.as_str().parse(), Ok(url.clone()), "it reads back");
                prop_assert!(url.is_same_queue(&url));
            }
        }

        #[test]
        fn what_is_read_is_made_of_its_parts(
            host in "[a-z0-9]{1,8}(\\.[a-z0-9-]{1,8}){0,4}(:[1-9][0-9]{0,3})?", before in "(/[a-z]{1,5}){0,2}",
            account in "[0-9]{12}", name in "[A-Za-z0-9_-]{1,75}(\\.fifo)?",
        ) {
            let text = format!("https://{host}{before}/{account}/{name}");
            let url: QueueUrl = text.parse().expect("valid");
            prop_assert_eq!((url.as_str(), url.host(), url.account(), url.name()), (&*text, &*host, &*account, &*name));
        }
    }
}
