//! The source of credentials that a profile of the shared files names, read anew each time: the
//! SDK's own provider reads the files only once.

use std::path::PathBuf;

#[expect(
    deprecated,
    reason = "the crate that it moved to is not one that applications are to depend on"
)]
use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
use aws_config::profile::{self, Profile, ProfileFileLoadError, ProfileSet};
use aws_types::os_shim_internal::{Env, Fs};

/// Where a profile's credentials come from, as far as callbackd must know.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The profile does not exist.
    Missing { profile: String },
    /// A program prints them; then the roles are assumed one after another, the one nearest to the
    /// program last in the list.
    Program { command: String, account: Option<String>, roles: Vec<AssumedRole> },
    /// IAM Identity Center, as this profile configures it.
    Sso { profile: String },
    /// The SDK's own provider finds them, or says what is wrong with the profile.
    Other,
}

/// The role that a profile assumes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AssumedRole {
    arn: String,
    external_id: Option<String>,
    session_name: Option<String>,
}

/// The name of the program's credentials in [`rewritten`].
pub(super) const PROGRAM: &str = "CallbackdProgram";

/// Reads the files. `selected` takes precedence over `AWS_PROFILE`, and that over `default`.
pub(super) async fn origin(selected: Option<&str>) -> Result<Origin, ProfileFileLoadError> {
    #[expect(deprecated, reason = "see the import")]
    let files = ProfileFiles::default();
    let selected = selected.map(|name| name.to_owned().into());
    Ok(follow(&profile::load(&Fs::real(), &Env::real(), &files, selected).await?))
}

/// The files that profiles are read from: those that the environment names, else those in the home
/// directory.
pub(super) fn files() -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    let file = |variable: &str, name: &str| {
        let named = std::env::var_os(variable).filter(|name| !name.is_empty());
        named.map(PathBuf::from).or_else(|| Some(home()?.join(".aws").join(name)))
    };
    [file("AWS_CONFIG_FILE", "config"), file("AWS_SHARED_CREDENTIALS_FILE", "credentials")]
        .into_iter()
        .flatten()
        .collect()
}

/// Follows `source_profile` in the SDK's order, to the profile that has the credentials.
fn follow(profiles: &ProfileSet) -> Origin {
    let (mut name, mut roles, mut seen) = (profiles.selected_profile(), Vec::new(), Vec::new());
    loop {
        let Some(profile) = profiles.get_profile(name) else {
            let is_first = seen.is_empty();
            return if is_first {
                Origin::Missing { profile: name.to_owned() }
            } else {
                Origin::Other
            };
        };
        // A loop, and keys in a profile that is not the first, are left to the SDK to judge.
        if seen.contains(&name) || (!seen.is_empty() && profile.get("aws_access_key_id").is_some())
        {
            return Origin::Other;
        }
        seen.push(name);
        let Some(role) = role(profile) else { return base(profile, roles) };
        roles.push(role);
        match profile.get("source_profile") {
            Some(next) if next != profile.name() => name = next,
            Some(_) => return base(profile, roles),
            None => return Origin::Other,
        }
    }
}

fn role(profile: &Profile) -> Option<AssumedRole> {
    if profile.get("web_identity_token_file").is_some() {
        return None;
    }
    let text = |key: &str| profile.get(key).map(str::to_owned);
    Some(AssumedRole {
        arn: text("role_arn")?,
        external_id: text("external_id"),
        session_name: text("role_session_name"),
    })
}

fn base(profile: &Profile, roles: Vec<AssumedRole>) -> Origin {
    let has = |keys: &[&str]| keys.iter().any(|key| profile.get(key).is_some());
    if has(&["credential_source", "web_identity_token_file"]) {
        return Origin::Other;
    }
    if has(&["sso_session", "sso_start_url", "sso_account_id", "sso_role_name", "sso_region"]) {
        return Origin::Sso { profile: profile.name().to_owned() };
    }
    match profile.get("credential_process").filter(|_| !has(&["login_session"])) {
        Some(command) => {
            let account = profile.get("aws_account_id").map(str::to_owned);
            Origin::Program { command: command.to_owned(), account, roles }
        }
        None => Origin::Other,
    }
}

/// Files in which the roles are assumed with the credentials of [`PROGRAM`], and the profile to
/// select.
#[expect(deprecated, reason = "see the import")]
pub(super) fn rewritten(roles: &[AssumedRole]) -> (ProfileFiles, String) {
    let mut text = String::new();
    for (index, role) in roles.iter().enumerate() {
        text.push_str(&format!("[profile role-{index}]\nrole_arn = {}\n", role.arn));
        for (key, value) in
            [("external_id", &role.external_id), ("role_session_name", &role.session_name)]
        {
            if let Some(value) = value {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        if index + 1 < roles.len() {
            text.push_str(&format!("source_profile = role-{}\n", index + 1));
        } else {
            text.push_str(&format!("credential_source = {PROGRAM}\n"));
        }
    }
    (
        ProfileFiles::builder().with_contents(ProfileFileKind::Config, text).build(),
        "role-0".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str, selected: &str) -> Origin {
        #[expect(deprecated, reason = "see the import")]
        let files = ProfileFiles::builder().with_contents(ProfileFileKind::Config, text).build();
        let set = profile::load(
            &Fs::real(),
            &Env::from_slice(&[]),
            &files,
            Some(selected.to_owned().into()),
        )
        .await;
        follow(&set.expect("profiles"))
    }

    const PROFILES: &str = "
[profile keys]
aws_access_key_id = A
aws_secret_access_key = B
[profile program]
credential_process = /opt/helper --user x
[profile both]
credential_process = /opt/helper
sso_session = s
[profile role]
role_arn = arn:aws:iam::123456789012:role/outer
external_id = e
source_profile = inner
[profile inner]
role_arn = arn:aws:iam::123456789012:role/inner
source_profile = program
[profile round]
role_arn = arn:aws:iam::123456789012:role/r
source_profile = round
credential_process = /opt/round
[profile loop]
role_arn = arn:aws:iam::123456789012:role/r
source_profile = pool
[profile pool]
role_arn = arn:aws:iam::123456789012:role/r
source_profile = loop
[profile dangling]
role_arn = arn:aws:iam::123456789012:role/r
source_profile = nowhere
";

    #[tokio::test]
    async fn the_source_of_a_profile_is_found_as_the_sdk_finds_it() {
        let role = |name: &str, external_id: Option<&str>| AssumedRole {
            arn: format!("arn:aws:iam::123456789012:role/{name}"),
            external_id: external_id.map(str::to_owned),
            session_name: None,
        };
        let program = |command: &str, roles| Origin::Program {
            command: command.to_owned(),
            account: None,
            roles,
        };
        let helper = "/opt/helper --user x";
        for (name, wants) in [
            ("keys", Origin::Other),
            ("program", program(helper, vec![])),
            ("both", Origin::Sso { profile: "both".to_owned() }),
            ("role", program(helper, vec![role("outer", Some("e")), role("inner", None)])),
            ("round", program("/opt/round", vec![role("r", None)])),
            ("loop", Origin::Other),
            ("dangling", Origin::Other),
            ("nobody", Origin::Missing { profile: "nobody".to_owned() }),
        ] {
            assert_eq!(read(PROFILES, name).await, wants, "{name}");
        }
    }
}
