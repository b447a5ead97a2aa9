//! The variables that programs get from the daemon's own environment.

use std::ffi::OsString;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

/// Variables that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Group {
    /// What the AWS SDKs and the AWS CLI use: all of `AWS_*`, among them the credentials of
    /// containers and web identities; the proxies; the certificates to trust.
    Aws,
}

/// The daemon's own protocol with programs.
pub(super) const RESERVED: &str = "STEP_";

impl Group {
    const AWS: [&str; 14] = [
        "AWS_*",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
    ];

    fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::Aws => &Self::AWS,
        }
    }
}

/// Those of `environment` that are in the group, or whose name matches one of `names`, which may be
/// globs.
pub(super) fn chosen(
    environment: impl Iterator<Item = (OsString, OsString)>,
    group: Option<Group>,
    names: &[String],
) -> impl Iterator<Item = (OsString, OsString)> {
    let group = group.map_or(&[][..], Group::patterns).iter().copied();
    let patterns: Vec<WildMatch> =
        group.chain(names.iter().map(String::as_str)).map(WildMatch::new).collect();
    environment.filter(move |(name, _)| {
        name.to_str().is_some_and(|name| {
            !name.starts_with(RESERVED) && patterns.iter().any(|pattern| pattern.matches(name))
        })
    })
}

/// What is wanted and not there, in words.
pub(super) fn missing(
    environment: impl Iterator<Item = (OsString, OsString)>,
    names: &[String],
) -> Option<String> {
    let environment: Vec<_> = environment.collect();
    let is_missing = |name: &&String| {
        let name = std::slice::from_ref(*name);
        chosen(environment.iter().cloned(), None, name).next().is_none()
    };
    let (globs, plain): (Vec<_>, Vec<_>) =
        names.iter().filter(is_missing).partition(|name| name.contains(['*', '?']));
    let list = |what: &str, names: Vec<&String>| {
        let names: Vec<String> = names.into_iter().map(|name| format!("{name:?}")).collect();
        (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
    };
    let told = [list("there is no", plain), list("nothing matches", globs)];
    let told: Vec<String> = told.into_iter().flatten().collect();
    (!told.is_empty())
        .then(|| format!("`inherit_env`: {} in the daemon's environment", told.join(", and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(names: &[&str]) -> impl Iterator<Item = (OsString, OsString)> {
        let variables: Vec<_> = names.iter().map(|name| (name.into(), "x".into())).collect();
        variables.into_iter()
    }

    fn chosen_of(names: &[&str], group: Option<Group>, wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let chosen = chosen(environment(names), group, &wanted);
        chosen.map(|(name, _)| name.into_string().expect("text")).collect()
    }

    #[test]
    fn a_name_is_taken_as_it_is_and_a_glob_for_all_that_it_matches() {
        let there = ["AWS_REGION", "AWS_REGIONS", "aws_region", "AWSX", "STEP_TOKEN", "OTHER"];
        for (wanted, takes) in [
            (&["AWS_REGION"][..], &["AWS_REGION"][..]),
            (&["AWS_*"], &["AWS_REGION", "AWS_REGIONS"]),
            (&["AWS?", "NONE"], &["AWSX"]),
            (&["*"], &["AWS_REGION", "AWS_REGIONS", "aws_region", "AWSX", "OTHER"]),
            (&["S*"], &[]),
            (&[], &[]),
        ] {
            assert_eq!(chosen_of(&there, None, wanted), takes, "{wanted:?}");
        }
    }

    #[test]
    fn the_group_has_what_the_sdks_need_on_any_platform() {
        let there = [
            "AWS_ACCESS_KEY_ID",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_ROLE_ARN",
            "AWS_CA_BUNDLE",
            "HTTPS_PROXY",
            "no_proxy",
        ];
        assert_eq!(chosen_of(&there, Some(Group::Aws), &[]), there);
        let others = ["PATH", "DATABASE_URL", "STEP_TOKEN", "SECRET"];
        assert_eq!(chosen_of(&others, Some(Group::Aws), &[]), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_there_is_told_by_name() {
        let told = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            missing(environment(&["AWS_REGION"]), &wanted)
        };
        assert_eq!(told(&["AWS_REGION", "AWS_*"]), None);
        assert_eq!(
            told(&["AWS_REGION", "A", "B", "C_*", "D?"]).as_deref(),
            Some(
                "`inherit_env`: there is no \"A\", \"B\", and nothing matches \"C_*\", \"D?\" in \
                 the daemon's environment"
            )
        );
        assert_eq!(
            told(&["C_*"]).as_deref(),
            Some("`inherit_env`: nothing matches \"C_*\" in the daemon's environment")
        );
    }
}
