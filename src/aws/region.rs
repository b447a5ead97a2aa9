//! The region and account that a queue's URL names.

/// The region in the URL of an SQS queue: `https://sqs.REGION.amazonaws.com/…` in all its spellings (FIPS, dual-stack, VPC
/// endpoints, the legacy `REGION.queue.amazonaws.com`); `None` where the host names none, as look-alikes' mostly do not.
#[must_use]
pub fn of_queue(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split(['/', ':', '?']).next()?;
    let labels: Vec<&str> = host.split('.').collect();
    let after_sqs = labels.iter().position(|label| matches!(*label, "sqs" | "sqs-fips")).map(|at| at + 1);
    let before_queue = labels.iter().position(|label| *label == "queue").and_then(|at| at.checked_sub(1));
    let region = after_sqs.or(before_queue).and_then(|at| labels.get(at)).copied();
    region.filter(|region| is_region(region)).or((host == "queue.amazonaws.com").then_some("us-east-1"))
}

/// The account in the URL of an SQS queue: the twelve digits before its name.
#[must_use]
pub fn account_of_queue(url: &str) -> Option<&str> {
    let account = url.trim_end_matches('/').rsplit('/').nth(1)?;
    (account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())).then_some(account)
}

/// `eu-west-1`, `us-gov-east-1`: two words or more, then a number.
fn is_region(text: &str) -> bool {
    let mut parts = text.rsplit('-');
    let number = parts.next().is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let words: Vec<&str> = parts.collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    number && words.len() >= 2 && words.iter().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_queue_url_names_its_region() {
        for (host, region) in [
            ("https://sqs.us-east-1.amazonaws.com", "us-east-1"),
            ("https://sqs-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("https://sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("https://sqs.eu-central-1.api.aws", "eu-central-1"),
            ("https://vpce-0a-1b.sqs.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
            ("https://us-west-2.queue.amazonaws.com", "us-west-2"),
            ("https://queue.amazonaws.com", "us-east-1"),
            ("http://sqs.us-east-1.localhost.localstack.cloud:4566", "us-east-1"),
        ] {
            let url = format!("{host}/123456789012/q");
            assert_eq!((of_queue(&url), account_of_queue(&url)), (Some(region), Some("123456789012")), "{url}");
        }
    }

    #[test]
    fn a_host_that_names_no_region_is_not_guessed_at() {
        for url in
            ["http://127.0.0.1:5000/123456789012/q", "https://sqs.example.com/q", "sqs.us-east-1", "", "https://sqs"]
        {
            assert_eq!(of_queue(url), None, "{url}");
        }
        assert_eq!(account_of_queue("http://localhost/queue/q"), None);
        assert_eq!(account_of_queue("https://sqs.us-east-1.amazonaws.com/12345678901/q"), None);
    }
}
