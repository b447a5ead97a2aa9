//! What a configuration may and may not contain.

use std::convert::Infallible;
use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::engine::config::{AccountRole, Accounts, Verify};
use crate::handler::handler_fn;
use crate::seam::Role;

/// A registry whose `exec` and `http` accept any settings, so that no program has to exist.
fn registry() -> Registry {
    let any = |_: Value| Ok::<_, Infallible>(handler_fn(async |_, _: Value| Ok(())));
    Registry::new().handler("exec", any).handler("http", any)
}

const LEAST: &str = r#"
[[queues]]
url = "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-callbacks"
handler = "work"
[handlers.work]
type = "exec"
"#;

fn load(text: &str) -> Result<CheckedConfig, Mistakes> {
    CheckedConfig::from_toml("test.toml", text, &registry())
}

fn mistakes(text: &str) -> Vec<String> {
    let mistakes = load(text).expect_err("mistakes");
    mistakes.iter().map(|mistake| format!("{}: {}", mistake.key, mistake.what)).collect()
}

fn with_env(text: &str, variables: &[(&str, &str)]) -> Result<CheckedConfig, Mistakes> {
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(text.as_bytes()).expect("write");
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    CheckedConfig::load(Some(file.path()), variables.collect::<Vec<_>>(), &registry())
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let loaded = load(LEAST).expect("valid");
    let queue = &loaded.config.queues[0];
    assert_eq!((queue.concurrency, queue.verify), (16, Verify::Redelivered));
    assert_eq!(queue.repost_after, Duration::from_secs(41_400));
    assert_eq!((queue.exclusive, queue.gone_after), (true, Duration::from_hours(24)));
    assert_eq!(loaded.config.handlers["work"].deferred_limit, Duration::from_secs(7 * 86_400));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert!(loaded.handlers.contains_key("work"));
}

#[test]
fn all_mistakes_are_told_at_once_with_key_and_remedy() {
    let told = mistakes(
        r#"
        [worker]
        drain_timout = "5s"
        [ledger]
        type = "dynamodb"
        table = "a b"
        lease = "1s"
        [log]
        format = "xml"
        [[queues]]
        url = "https://sqs.us-east-1.amazonaws.com/123456789012/q"
        handler = "nobody"
        visibility_timeout = 90
        concurrency = 0
        stop_watch = "100ms"
        gone_after = "59s"
        poll_wait = "1500ms"
        exclusive = "yes"
        accounts = ["12"]
        [[queues]]
        url = "https://sqs.us-east-1.amazonaws.com/123456789012/q"
        handler = "work"
        repost_after = "12h"
        [[queues]]
        handler = "work"
        [handlers.work]
        type = "exek"
        max_attempts = 0
        retry_delay = "1h"
        [handlers.Other]
        type = "grpc"
        "#,
    );
    let wants = [
        "worker.drain_timout: there is no such key (did you mean `drain_timeout`?); known are: id, \
         drain_timeout, work_dir, spot_notice",
        "log.format: unknown variant the value, expected one of `auto`",
        "queues[0].visibility_timeout: invalid type: the integer, expected a duration with its \
         unit",
        "queues[2].url: is missing",
        "ledger.table: is not the name of a table",
        "ledger.lease: 1s is not allowed; 3s to 12h are",
        "queues[0].concurrency: 0 is not allowed; 1 to 100000 are",
        "queues[0].stop_watch: 100ms is not allowed",
        "queues[0].poll_wait: only whole seconds are allowed",
        "queues[0].gone_after: 59s is not allowed; 1m to ",
        "queues[0].exclusive: invalid type: the text, expected true or false",
        "queues[0].accounts[0]: is not the twelve digits",
        "queues[0].handler: there is no [handlers.nobody]; there are: Other, work",
        "queues[1].repost_after: 12h and a visibility_timeout of 2m exceed the 12h",
        "queues[1].url: the same queue as queues[0]; list each once",
        "handlers.Other: a handler's name consists of lower-case",
        "handlers.work.max_attempts: 0 is not allowed",
        "handlers.work.retry_delay: 1h is more than the retry_delay_max of 15m",
        "handlers.Other.type: `grpc` is not a handler type of this binary, which has: exec, http",
        "handlers.work.type: `exek` is not a handler type of this binary, which has: exec, http",
    ];
    for want in wants {
        assert!(told.iter().any(|told| told.starts_with(want)), "{want}\nnot in {told:#?}");
    }
    let without_tables = usize::from(!cfg!(feature = "dynamodb"));
    assert_eq!(told.len(), wants.len() + without_tables, "{told:#?}");
}

#[test]
fn a_value_of_another_kind_is_told_what_the_key_takes() {
    for (line, wants) in [
        (
            "answers = true",
            "answers: invalid type: the boolean, expected \"callbackd\" or \"handler\"",
        ),
        (
            "breaker = 5",
            "breaker: invalid type: the integer, expected a table with failures, pause",
        ),
        (
            "breaker = { failures = \"x\", pause = \"5m\" }",
            "breaker.failures: invalid type: the text, expected a whole number",
        ),
        (
            "max_running = \"four\"",
            "max_running: invalid type: the text, expected a whole number; allowed: 1 to 100000",
        ),
        (
            "max_running = 1.5",
            "max_running: invalid type: the floating point, expected a whole number",
        ),
        ("rate = 3", "rate: invalid type: the integer, expected a text in quotes; allowed: "),
        ("type = 3", "type: invalid type: the integer, expected a text in quotes"),
    ] {
        let told = mistakes(&format!("[handlers.work]\n{line}\n"));
        let wants = format!("handlers.work.{wants}");
        assert!(told.iter().any(|told| told.starts_with(&wants)), "{wants}\nnot in {told:#?}");
    }
}

#[test]
fn a_text_that_is_no_toml_and_a_file_that_is_not_there_say_so() {
    let error = load("[[queues").expect_err("no TOML").to_string();
    assert!(error.starts_with("test.toml: it is not TOML"), "{error}");
    let missing = CheckedConfig::load(Some(Path::new("/nowhere/callbackd.toml")), [], &registry())
        .expect_err("missing")
        .to_string();
    assert!(
        missing.contains("/nowhere/callbackd.toml") && missing.contains("--config"),
        "{missing}"
    );
}

#[test]
fn unusable_queues_are_refused() {
    for (url, wants) in [
        ("https://sqs.us-east-1.amazonaws.com/123456789012/q.fifo", "FIFO"),
        ("sqs.us-east-1.amazonaws.com/123456789012/q", "begins with https://"),
        ("https://sqs.us-east-1.amazonaws.com/q", "must end in /ACCOUNT/NAME"),
        ("arn:aws:sqs:us-east-1:123456789012:q", "begins with https://"),
        ("", "begins with https://"),
    ] {
        let told =
            mistakes(&LEAST.replace(
                "https://sqs.us-east-1.amazonaws.com/123456789012/sagemaker-callbacks",
                url,
            ));
        assert!(
            told.len() == 1 && told[0].starts_with("queues[0].url: ") && told[0].contains(wants),
            "{told:?}"
        );
    }
    let two = "[[queues]]\nurl = \"x\"\nhandler = \"work\"\n".repeat(2);
    let told = mistakes(&format!("{two}[handlers.work]\ntype = \"exec\"\n"));
    assert!(
        told.len() == 2 && told[1].starts_with("queues[1].url: a queue's URL begins with"),
        "{told:?}"
    );
}

#[test]
fn one_queue_in_two_spellings_is_refused_and_two_queues_of_one_name_are_not() {
    let twice = |one: &str, other: &str| {
        let queue = |url: &str| format!("[[queues]]\nurl = \"{url}\"\nhandler = \"work\"\n");
        load(&format!("{}{}[handlers.work]\ntype = \"exec\"\n", queue(one), queue(other)))
    };
    for (one, other) in [
        (
            "https://sqs.us-east-1.amazonaws.com/123456789012/q",
            "https://queue.amazonaws.com/123456789012/q",
        ),
        (
            "https://sqs.eu-west-1.amazonaws.com/123456789012/q",
            "https://sqs.eu-west-1.api.aws/123456789012/q/",
        ),
        ("http://127.0.0.1:4100/123456789012/q", "http://localhost:4100/123456789012/q"),
    ] {
        let told = twice(one, other).expect_err("one queue").to_string();
        assert!(
            told.contains("queues[1].url: the same queue as queues[0] in another spelling"),
            "{told}"
        );
    }
    let (here, there) =
        ("https://sqs.eu-west-1.amazonaws.com", "https://sqs.us-east-1.amazonaws.com");
    let name = "123456789012/q";
    assert!(twice(&format!("{here}/{name}"), &format!("{there}/{name}")).is_ok());
}

#[test]
fn a_route_that_hides_those_after_it_is_refused() {
    let told = mistakes(&LEAST.replace(
        "[handlers.work]",
        "[[queues.routes]]\npipeline = \"*\"\nhandler = \"work\"\n[[queues.routes]]\npipeline = \
         \"a\"\nhandler = \"work\"\n[handlers.work]",
    ));
    assert_eq!(
        told,
        ["queues[0].routes[0]: matches every step, so the routes after it are never used; move \
             it to the end"]
    );
}

#[test]
fn the_environment_overrides_the_file_with_its_raw_text() {
    let loaded = with_env(
        LEAST,
        &[
            ("CALLBACKD_QUEUES__0__CONCURRENCY", "40"),
            ("CALLBACKD_QUEUES__0__ACCOUNTS", "000000000012,012345678901"),
            ("CALLBACKD_QUEUES__0__VERIFY", "always"),
            ("CALLBACKD_QUEUES__0__EXCLUSIVE", "false"),
            ("CALLBACKD_WORKER__ID", "007"),
            ("CALLBACKD_WORKER__DRAIN_TIMEOUT", "5s"),
            ("CALLBACKD_HANDLERS__WORK__ON_STOP", "success"),
            ("CALLBACKD_HANDLERS__WORK__TIME_LIMIT", "11h"),
            ("CALLBACKD_HTTP__LISTEN", "off"),
            ("OTHER", "ignored"),
            ("CALLBACKD_PORT", "tcp://10.0.0.1:9464"),
        ],
    );
    let loaded = loaded.expect("valid");
    let of_the_environment: Vec<_> =
        loaded.warnings.iter().filter(|warning| warning.starts_with("CALLBACKD_")).collect();
    assert_eq!(
        of_the_environment,
        ["CALLBACKD_PORT: is not a setting (CALLBACKD_<KEY>__<KEY>) and is ignored"]
    );
    let config = loaded.config;
    assert_eq!((config.queues[0].concurrency, config.queues[0].exclusive), (40, false));
    assert_eq!(
        config.queues[0].accounts,
        Accounts::Listed(vec!["000000000012".into(), "012345678901".into()])
    );
    assert_eq!(config.worker.id.as_deref(), Some("007"));
    assert_eq!(config.worker.drain_timeout, Duration::from_secs(5));
}

#[test]
fn a_container_needs_no_file() {
    let variables = [
        ("CALLBACKD_QUEUES__0__URL", "https://sqs.us-east-1.amazonaws.com/012345678901/q"),
        ("CALLBACKD_QUEUES__0__ACCOUNTS__0", "000000000001"),
        ("CALLBACKD_QUEUES__0__HANDLER", "work"),
        ("CALLBACKD_HANDLERS__WORK__TYPE", "exec"),
        ("CALLBACKD_HANDLERS__WORK__SETTINGS__COMMAND", "[\"/bin/true\"]"),
    ];
    let loaded = with_env("", &variables).expect("valid");
    assert_eq!(loaded.config.queues[0].accounts, Accounts::Listed(vec!["000000000001".into()]));
}

#[test]
fn what_a_handler_inherits_may_be_written_beside_its_settings_or_in_them() {
    const EXEC: &str = "[handlers.work.settings]\ncommand = ['/bin/true']\n";
    let inherits = |settings: Value| {
        let is_so = settings["inherit"] == "aws";
        if is_so { Ok(handler_fn(async |_, _: Value| Ok(()))) } else { Err("it inherits nothing") }
    };
    let inheriting = Registry::new().handler("exec", inherits);
    let load =
        |text: &str, registry: &Registry| CheckedConfig::from_toml("test.toml", text, registry);
    for text in [
        format!("{LEAST}inherit = 'aws'\n"),
        format!("{LEAST}inherit = 'aws'\n{EXEC}"),
        format!("{LEAST}{EXEC}inherit = 'aws'\n"),
    ] {
        assert!(load(&text, &inheriting).is_ok(), "{text}");
    }
    let told =
        |text: &str| load(text, &Registry::with_builtins()).expect_err("mistakes").to_string();
    let twice = told(&format!("{LEAST}inherit = 'aws'\n{EXEC}inherit = 'aws'\n"));
    assert!(twice.contains("handlers.work.inherit") && twice.contains("write it once"), "{twice}");
    let unknown = told(&format!("{LEAST}inherit = 'gcp'\n{EXEC}"));
    assert!(unknown.contains("handlers.work.inherit") && unknown.contains("`aws`"), "{unknown}");
    let unknown = told(&format!("{LEAST}{EXEC}inherit = 'gcp'\n"));
    assert!(unknown.contains("handlers.work.settings.inherit"), "{unknown}");
    let plain = Registry::new().handler("exec", || handler_fn(async |_, _: Value| Ok(())));
    let needless = load(&format!("{LEAST}inherit = 'aws'\n"), &plain).expect_err("no settings");
    assert!(needless.to_string().contains("handlers.work.inherit"), "{needless}");
}

#[test]
fn keys_that_are_the_users_own_keep_their_case() {
    let file = "
        [[queues]]
        url = 'https://sqs.us-east-1.amazonaws.com/012345678901/q'
        [[queues.routes]]
        arguments = { Task = 'spark' }
        handler = 'work'
        [handlers.work]
        type = 'exec'
        [handlers.work.settings]
        command = ['/bin/true']
        env = { STAGE = 'test' }
    ";
    let loaded = with_env(
        file,
        &[
            ("CALLBACKD_HANDLERS__WORK__SETTINGS__ENV__STAGE", "production"),
            ("CALLBACKD_HANDLERS__WORK__SETTINGS__ENV__http_proxy", "none"),
            ("CALLBACKD_HANDLERS__WORK__SETTINGS__ENV__A__B", "c"),
            ("CALLBACKD_HANDLERS__WORK__SETTINGS__POLL_INTERVAL", "5s"),
            ("CALLBACKD_QUEUES__0__ROUTES__0__ARGUMENTS__Task", "train"),
        ],
    )
    .expect("valid");
    let settings = &loaded.config.handlers["work"].settings;
    assert_eq!(
        settings["env"],
        serde_json::json!({ "A__B": "c", "STAGE": "production", "http_proxy": "none" })
    );
    assert_eq!(settings["poll_interval"], "5s");
    assert_eq!(
        serde_json::json!(loaded.config.queues[0].routes[0].arguments),
        serde_json::json!({ "Task": "train" })
    );
}

#[test]
fn an_account_that_could_not_be_answered_is_refused() {
    let role = |account: &str| format!("arn:aws-us-gov:iam::{account}:role/worker");
    let with = |more: &str| load(&LEAST.replacen("[[queues]]", &format!("[[queues]]\n{more}"), 1));
    let (one, other) = ("012345678901", "000000000012");
    let table =
        with(&format!("accounts = {{ {one} = {:?}, {other} = {:?} }}", role(one), role(other)))
            .expect("valid");
    let all: Vec<_> = table.config.queues[0]
        .accounts
        .iter()
        .map(|(account, role)| (account, role.is_some()))
        .collect();
    assert_eq!(all, [(other, true), (one, true)]);
    let variable = [("CALLBACKD_QUEUES__0__ACCOUNTS__012345678901", &*role(one))];
    assert_eq!(
        with_env(LEAST, &variable).expect("valid").config.queues[0].accounts,
        Accounts::Roles([(one.into(), AccountRole::Arn(role(one)))].into())
    );
    assert!(with(&format!("accounts = [{one:?}]\nrole_arn = {:?}", role(one))).is_ok());
    for (more, wants) in [
        (
            format!("accounts = {{ {one} = {:?} }}", role(other)),
            "the role is of the account 000000000012",
        ),
        (format!("accounts = {{ {one} = \"worker\" }}"), "is not arn:aws:iam::ACCOUNT:role/NAME"),
        (format!("accounts = [{one:?}]\nrole_arn = {:?}", role(other)), "could not be answered"),
        ("region = \"eu-west-1\"".to_owned(), "contradicts the url"),
    ] {
        let told = with(&more).map(drop).expect_err(&more).to_string();
        assert!(told.contains(wants), "{more}: {told}");
    }
}

#[test]
fn a_role_has_an_external_id_of_its_own() {
    let with = |more: &str| load(&LEAST.replace("handler = ", &format!("{more}\nhandler = ")));
    let role = |account: &str| format!("arn:aws:iam::{account}:role/worker");
    let (own, other) = (role("123456789012"), role("210987654321"));
    let text = format!(
        "role_arn = '{own}'\nexternal_id = '0042'\naccounts = {{ 210987654321 = {{ role_arn = \
         '{other}', external_id = 'tenant:7' }}, 310987654321 = '{}' }}",
        role("310987654321")
    );
    let config = with(&text).expect("valid").config;
    let queue = &config.queues[0];
    let id = |role: Option<Role<'_>>| Some(role?.external_id?.as_str().to_owned());
    let of_accounts: Vec<_> = queue.accounts.iter().map(|(_, role)| id(role)).collect();
    assert_eq!(id(queue.role()).as_deref(), Some("0042"));
    assert_eq!(of_accounts, [Some("tenant:7".to_owned()), None], "none is passed on");
    let printed = load(&config.to_toml()).expect("what is printed is valid").config;
    assert_eq!(printed.queues, config.queues);

    let variables = [
        ("CALLBACKD_QUEUES__0__ROLE_ARN", &*own),
        ("CALLBACKD_QUEUES__0__EXTERNAL_ID", "0042"),
        ("CALLBACKD_QUEUES__0__ACCOUNTS__210987654321__ROLE_ARN", &*other),
        ("CALLBACKD_QUEUES__0__ACCOUNTS__210987654321__EXTERNAL_ID", "1e3"),
    ];
    let of_variables = with_env(LEAST, &variables).expect("valid").config;
    let queue = &of_variables.queues[0];
    assert_eq!(id(queue.role()).as_deref(), Some("0042"));
    assert_eq!(id(queue.accounts.iter().next().and_then(|(_, role)| role)).as_deref(), Some("1e3"));

    for (more, wants) in [
        (
            "external_id = 'tenant-7'".to_owned(),
            "queues[0].external_id: is for `role_arn`, which is missing",
        ),
        (
            format!("role_arn = '{own}'\nexternal_id = 'a'"),
            "queues[0].external_id: an external id has 2 to 1224",
        ),
        (
            format!("accounts = {{ 210987654321 = {{ role_arn = '{other}', external_id = '' }} }}"),
            "queues[0].accounts.210987654321.external_id: an external id has 2 to 1224",
        ),
        (
            format!("accounts = {{ 210987654321 = {{ role_arn = '{other}', externalid = 'x' }} }}"),
            "did you mean `external_id`?",
        ),
        (
            "accounts = { 210987654321 = { external_id = 'xy' } }".to_owned(),
            "queues[0].accounts.210987654321.role_arn: is missing",
        ),
        (
            format!("accounts = {{ 210987654321 = {{ role_arn = '{own}', external_id = 'xy' }} }}"),
            "the role is of the account 123456789012",
        ),
    ] {
        let told = with(&more).map(drop).expect_err(&more).to_string();
        assert!(told.contains(wants), "{more}: {told}");
    }
}

#[test]
fn a_variable_for_an_element_beyond_the_next_is_named_with_the_one_that_lacks() {
    for (variable, lacks) in [
        ("CALLBACKD_QUEUES__2__CONCURRENCY", "there is no queues[1]"),
        ("CALLBACKD_QUEUES__0__ACCOUNTS__1", "there is no queues[0].accounts[0]"),
    ] {
        let error = with_env(LEAST, &[(variable, "123456789012")]).expect_err(lacks).to_string();
        assert!(error.contains(&format!("{variable}: {lacks}")), "{error}");
    }
}

#[test]
fn a_mistake_in_the_environment_names_its_variable() {
    let error = with_env(
        LEAST,
        &[("CALLBACKD_QUEUES__0__CONCURRENCY", "many"), ("CALLBACKD_WROKER__ID", "x")],
    )
    .expect_err("mistakes");
    let text = error.to_string();
    assert!(text.contains("CALLBACKD_QUEUES__0__CONCURRENCY: queues[0].concurrency: "), "{text}");
    assert!(
        text.contains(
            "CALLBACKD_WROKER__ID: wroker: there is no such key (did you mean `worker`?)"
        ),
        "{text}"
    );
    assert!(text.contains("2 mistakes"), "{text}");
}

#[test]
fn a_value_that_does_not_parse_is_never_repeated() {
    const SECRET: &str = "hunter2";
    let file = format!(
        "[worker]\ndrain_timeout = '5{SECRET}'\n[http]\nlisten = \
         'https://me:{SECRET}@host'\n[log]\nlevel = 'debug,{SECRET}'\n\
         format = '{SECRET}'\n[ledger]\nretention = ['{SECRET}']\n[[queues]]\nurl = \
         'https://me:{SECRET}@host/'\nhandler = 'work'\n\
         concurrency = '{SECRET}'\nvisibility_timeout = {{ a = '{SECRET}' }}\nrole_arn = \
         '{SECRET}'\naccounts = ['{SECRET}', 7]\n\
         verify = '{SECRET}'\n[handlers.work]\ntype = 'exec'\nmax_attempts = '{SECRET}'\n"
    );
    let variables = [
        ("CALLBACKD_QUEUES__0__STOP_WATCH", SECRET),
        ("CALLBACKD_QUEUES__0__EXCLUSIVE", SECRET),
        ("CALLBACKD_LEDGER__LEASE", "hunter2s"),
    ];
    let told = with_env(&file, &variables).expect_err("mistakes");
    assert!(told.iter().count() >= 12, "{told}");
    assert!(!told.to_string().contains(SECRET), "{told}");
    for broken in [
        format!("[worker]\nid = '{SECRET}"),
        format!("[worker]\nid = {SECRET}"),
        format!("a = '{SECRET}' b"),
    ] {
        let told = load(&broken).expect_err("no TOML").to_string();
        assert!(told.contains("it is not TOML: line ") && !told.contains(SECRET), "{told}");
    }
}

#[test]
fn a_section_needs_neither_a_file_nor_the_others() {
    let variables = |all: &[(&str, &str)]| {
        all.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect::<Vec<_>>()
    };
    let read = |all: &[(&str, &str)]| {
        Config::section("http", None, variables(all)).map(|config| config.http.listen.to_string())
    };
    assert_eq!(read(&[]), Ok("127.0.0.1:9464".to_owned()));
    let others = [("CALLBACKD_HTTP__LISTEN", "[::1]:80"), ("CALLBACKD_QUEUES__0__URL", "?")];
    assert_eq!(read(&others), Ok("[::1]:80".to_owned()));
    assert!(read(&[("CALLBACKD_HTTP__LISTEN", "nowhere")]).is_err());
    assert!(Config::section("http", Some(Path::new("/nowhere/callbackd.toml")), []).is_err());
}

#[test]
fn a_queue_s_role_and_region_are_known_to_commands_though_the_rest_is_wrong() {
    let mut file = tempfile::NamedTempFile::new().expect("file");
    let text = "[[queues]]\nurl = \
                'https://sqs.eu-west-1.amazonaws.com/123456789012/a'\nconcurrency = \
                'many'\n[[queues]]\n\
                url = 'https://sqs.us-east-1.amazonaws.com/123456789012/b'\n[[queues]]\nurl = \
                '?'\n";
    file.write_all(text.as_bytes()).expect("write");
    let role = "arn:aws:iam::210987654321:role/callbackd";
    let variables = [("CALLBACKD_QUEUES__1__ROLE_ARN".into(), role.into())];
    let access = Config::access(Some(file.path()), variables).expect("a file");
    let of = |queue: &str, account: &str, region: &str, role: Option<&str>| Access {
        queue: queue.into(),
        account: account.into(),
        is_further: false,
        region: Some(region.into()),
        role: role.map(|role_arn| RoleWithId { role_arn: role_arn.to_owned(), external_id: None }),
    };
    assert_eq!(
        access,
        [
            of("a", "123456789012", "eu-west-1", None),
            of("b", "210987654321", "us-east-1", Some(role))
        ]
    );
}

#[test]
fn passwords_in_urls_and_in_arguments_are_hidden_wherever_they_are() {
    let text = LEAST.to_owned()
        + "[handlers.work.settings]\ncommand = ['/bin/x', '--db=postgres://u:hunter2@db/x', \
           '--password', 'hunter2', '--token=hunter2', \
           '--token-file', '/kept', 'a ftp://u:hunter2@h and http://:hunter2@h?x']\nurl = \
           'https://u:hunter2@host/'\n";
    let written = load(&text).expect("valid").config.to_toml();
    assert!(!written.contains("hunter2"), "{written}");
    for kept in [
        "postgres://***@db/x",
        "--password",
        "--token=***",
        "/kept",
        "ftp://***@h and http://***@h?x",
    ] {
        assert!(written.contains(kept), "{kept}: {written}");
    }
    #[cfg(feature = "aws")]
    {
        let text = format!("{LEAST}\n[aws]\nendpoint_url = 'http://u:hunter2@127.0.0.1:1'\n");
        let written = load(&text).expect("valid").config.to_toml();
        assert!(written.contains("http://***@127.0.0.1:1"), "{written}");
    }
}

#[test]
fn the_reference_manual_names_every_key_with_the_default_that_holds() {
    let manual = DEFAULTS.lines().map(|line| {
        line.strip_prefix("# ")
            .filter(|rest| rest.contains(" = ") || rest.starts_with('['))
            .unwrap_or(line)
    });
    // Without the AWS clients there is no section for them.
    #[cfg(not(feature = "aws"))]
    let manual = manual.filter(|line| {
        !["region = ", "profile = ", "endpoint_url = "].iter().any(|key| line.starts_with(key))
    });
    let manual = manual.collect::<Vec<_>>().join("\n");
    let documented = load(&manual).unwrap_or_else(|mistakes| panic!("{mistakes}\n{manual}")).config;
    let mut expected = load(LEAST).expect("valid").config;
    let keys = |config: &Config| {
        let mut keys = Vec::new();
        collect_keys(&serde_json::to_value(config).expect("json"), "", &mut keys);
        keys.retain(|key| !key.contains(".settings") && !key.contains(".arguments."));
        keys
    };
    for key in keys(&documented) {
        let field = key.rsplit('.').next().expect("a last part");
        assert!(manual.contains(&format!("{field} = ")), "config/default.toml lacks {key}");
    }
    // Keys without a default are shown with an example.
    expected.queues[0].routes = documented.queues[0].routes.clone();
    expected.queues[0].region = documented.queues[0].region.clone();
    expected.queues[0].role_arn = documented.queues[0].role_arn.clone();
    expected.queues[0].external_id = documented.queues[0].external_id.clone();
    expected.queues[0].accounts = documented.queues[0].accounts.clone();
    #[cfg(feature = "aws")]
    expected.aws.clone_from(&documented.aws);
    expected.worker.id = documented.worker.id.clone();
    expected.worker.work_dir = documented.worker.work_dir.clone();
    expected.queues[0].url.clone_from(&documented.queues[0].url);
    expected.queues[0].handler.clone_from(&documented.queues[0].handler);
    // One for each type; what is not set has its default.
    let with_default = |(name, documented): (&String, &HandlerConfig)| {
        let (kind, settings) = (documented.kind.clone(), documented.settings.clone());
        let HandlerConfig { max_running, rate, breaker, .. } = *documented;
        let rest = expected.handlers["work"].clone();
        (name.clone(), HandlerConfig { kind, settings, max_running, rate, breaker, ..rest })
    };
    expected.handlers = documented.handlers.iter().map(with_default).collect();
    expected.ledger.path.clone_from(&documented.ledger.path);
    assert_eq!(documented, expected);
}

fn collect_keys(value: &Value, prefix: &str, keys: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                collect_keys(value, &format!("{prefix}.{key}"), keys);
            }
        }
        Value::Array(elements) => {
            for value in elements {
                collect_keys(value, prefix, keys);
            }
        }
        // Neither a default nor an example.
        Value::Null => {}
        _ => keys.push(prefix.trim_start_matches('.').to_owned()),
    }
}

#[test]
fn workers_with_ledgers_of_their_own_are_warned_of_second_starts_on_a_shared_queue() {
    let warnings = |exclusive: bool, handler: &str| {
        let text = LEAST.replace("handler = ", &format!("exclusive = {exclusive}\nhandler = "));
        load(&format!("{text}{handler}\n")).expect("valid").warnings
    };
    let short = "time_limit = '11h'";
    let polling = "time_limit = '11h'\nsettings = { poll_interval = '5m' }";
    assert_eq!(warnings(true, ""), Vec::<String>::new());
    assert_eq!(warnings(true, polling), Vec::<String>::new());
    let says = |warning: &str, parts: &[&str]| parts.iter().all(|part| warning.contains(part));
    let long = warnings(false, "");
    assert!(long.len() == 2, "{long:?}");
    let parts = ["queues[0].exclusive", "handlers.work", "1d", "11h30m"];
    assert!(says(&long[0], &parts), "{long:?}");
    // Whether it is written or not.
    for (handler, interval) in [(short, "poll_interval, 1m"), (polling, "poll_interval, 5m")] {
        let polls = warnings(false, handler);
        assert!(polls.len() == 1 && says(&polls[0], &["handlers.work", interval]), "{polls:?}");
    }
}

#[test]
fn the_example_is_a_whole_production_file_without_mistakes_or_warnings() {
    let loaded = load(include_str!("../../config/example.toml"))
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn a_dump_reads_back_and_hides_what_may_be_a_secret() {
    let text = format!(
        "{LEAST}[handlers.work.settings]\ncommand = [\"/bin/true\"]\nenv = {{ DB = \"hunter2\" \
         }}\napi_token = \"hunter2\"\n"
    );
    let dump = load(&text).expect("valid").config.to_toml();
    assert!(!dump.contains("hunter2"), "{dump}");
    assert!(dump.contains("visibility_timeout = \"2m\""), "{dump}");
    assert!(load(&dump).is_ok(), "{dump}");
}

#[test]
fn the_schema_describes_every_section() {
    let schema = Config::schema().to_string();
    for key in [
        "visibility_timeout",
        "gone_after",
        "exclusive",
        "retry_delay_max",
        "drain_timeout",
        "retention",
        "listen",
    ] {
        assert!(schema.contains(key), "{key}");
    }
}

/// The check, the manual and the schema agree.
#[test]
fn every_range_is_in_the_manual_and_in_the_schema() {
    let schema = Config::schema().to_string();
    let lines: Vec<&str> = DEFAULTS.lines().collect();
    for (section, ranges) in super::ranges() {
        let begin = lines
            .iter()
            .position(|line| line.trim_matches(['[', ']']).split('.').next() == Some(section));
        let begin = begin.unwrap_or_else(|| panic!("[{section}]"));
        for (key, range) in ranges {
            let at = (begin..lines.len())
                .find(|at| lines[*at].trim_start_matches("# ").starts_with(&format!("{key} = ")))
                .expect(key);
            let comments = lines[..at].iter().rev().take_while(|line| line.starts_with("# "));
            let comment: Vec<&str> = comments.map(|line| line.trim_start_matches("# ")).collect();
            let comment = comment.into_iter().rev().collect::<Vec<_>>().join(" ");
            assert!(comment.contains(&range), "{section}.{key}: {range} is not in: {comment}");
            assert!(
                schema.contains(&format!("Allowed: {range}.")),
                "{section}.{key}: {range} is not in the schema"
            );
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "(\\[{0,2}(queues|handlers\\.x|log|ledger)\\]{0,2}\n|(url|type|handler|settings|level|lease) = (\"\\PC{0,8}\"|[0-9]{1,3}|\\[\\]|\\{\\})\n|\\PC{0,5}\n){0,12}") {
        let _ = load(&text);
    }
}
