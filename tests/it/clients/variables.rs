//! What `run` and `env` set, in every format, is complete and survives quoting.

use std::collections::BTreeMap;

use super::{bare, found, printed, ran, run, shop, text};
use crate::support::bursar::{Bursar, WALLET_KEY, bin, setup};
use crate::support::buyer::skip;

/// The variables of R231, with the file each must point to.
const ADDED: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
const REPLACED: [&str; 8] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
];
const PROXIES: [&str; 7] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "grpc_proxy",
];

/// The parsed output of `env -0`.
fn environment(output: &[u8]) -> BTreeMap<String, String> {
    text(output)
        .split('\0')
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn assert_complete(variables: &BTreeMap<String, String>, bursar: &Bursar) {
    let proxy = &variables["HTTPS_PROXY"];
    let (scheme_and_name, address) = proxy.rsplit_once('@').unwrap();
    let token = scheme_and_name.strip_prefix("http://research:").unwrap();
    assert!(token.starts_with("bur_") && token != bursar.home.token);
    assert_eq!(address, bursar.address.to_string());
    for name in PROXIES {
        assert_eq!(variables.get(name), Some(proxy), "{name}");
    }
    let dir = bursar.path().display().to_string();
    for name in ADDED {
        assert_eq!(variables.get(name), Some(&format!("{dir}/ca.pem")), "{name}");
    }
    for name in REPLACED {
        assert_eq!(variables.get(name), Some(&format!("{dir}/bundle.pem")), "{name}");
    }
    assert_eq!(variables["NODE_USE_ENV_PROXY"], "1");
    assert_eq!(variables["GIT_HTTP_PROXY_AUTHMETHOD"], "basic");
    let (host, port) = address.split_once(':').unwrap();
    let java =
        format!("-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port}");
    assert!(variables["JAVA_TOOL_OPTIONS"].ends_with(&java), "{variables:?}");
}

#[test]
fn a_child_gets_every_variable_and_nothing_that_leads_past() {
    let stripe = "[stripe]\nkey = \"env:BURSAR_TEST_STRIPE\"\npayment_method = \"pm_card_visa\"\n";
    let mut program = std::process::Command::new(bin());
    program.env("BURSAR_TEST_STRIPE", "sk_test_of_nobody");
    let bursar = setup().config(stripe).home().serve_by(program);
    let mut command = run(bursar.path(), &["env", "-0"]);
    command
        .env("BURSAR_TEST_STRIPE", "sk_test_of_nobody")
        .env("HTTPS_PROXY", "http://old.example:1")
        .env("ftp_proxy", "http://old.example:1")
        .env("npm_config_https_proxy", "http://old.example:1")
        .env("PIP_PROXY", "http://old.example:1")
        .env("NO_PROXY", "intranet.example,10.0.0.0/8")
        .env("no_proxy", "10.0.0.0/8,.corp.example")
        .env("JAVA_TOOL_OPTIONS", "-Xmx1g")
        .env("UNTOUCHED", "as it was")
        .env("BURSAR_TEST_WALLET", WALLET_KEY);
    let output = ran(command);
    let variables = environment(&output.stdout);
    assert_complete(&variables, &bursar);
    assert!(!text(&output.stdout).contains("old.example"), "{variables:?}");
    assert_eq!(variables["NO_PROXY"], "intranet.example,10.0.0.0/8,.corp.example");
    assert_eq!(variables["no_proxy"], variables["NO_PROXY"]);
    assert!(variables["JAVA_TOOL_OPTIONS"].starts_with("-Xmx1g -Dhttp.proxyHost="));
    assert_eq!(variables["UNTOUCHED"], "as it was");
    // bursar.toml reads the wallet key from this variable; the shell that starts the server often starts agents too.
    assert_eq!(
        variables.get("BURSAR_TEST_WALLET"),
        None,
        "the agent got the wallet key"
    );
    assert_eq!(
        variables.get("BURSAR_TEST_STRIPE"),
        None,
        "the agent got the key to the card"
    );

    let mut command = run(bursar.path(), &["env", "-0"]);
    command.env("NO_PROXY", "*");
    let output = ran(command);
    assert!(text(&output.stderr).contains("NO_PROXY contains \"*\""), "{output:?}");
    let output = ran(run(bursar.path(), &["env", "-0"]));
    assert_eq!(environment(&output.stdout).get("NO_PROXY"), None);
}

/// A data directory whose name needs quoting everywhere.
const ODD: &str = "it's $HOME `id` \"here\" \\ ; now";

/// Lets `sh` read `input`, then prints the resulting environment.
fn evaluated(script: &str, input: &str) -> Vec<u8> {
    let mut shell = bare("sh");
    shell.args(["-c", script, "sh", input]);
    ran(shell).stdout
}

#[test]
fn exports_for_sh_are_what_run_sets() {
    let bursar = setup().folder(ODD).start();
    let exports = printed(&bursar, "sh");
    let variables = environment(&evaluated("eval \"$1\"; env -0", text(&exports.stdout)));
    assert_complete(&variables, &bursar);
    assert!(
        text(&exports.stderr).contains("The token in this output expires on 20"),
        "{exports:?}"
    );
}

#[test]
fn exports_for_sh_keep_what_the_shell_has() {
    let bursar = setup().start();
    let mut command = bare(bin());
    command.args(["env", "--agent", "research", "--dir"]).arg(bursar.path());
    command
        .env("JAVA_TOOL_OPTIONS", "-Xmx1g")
        .env("no_proxy", "intranet.example");
    let exports = ran(command);
    let variables = environment(&evaluated("eval \"$1\"; env -0", text(&exports.stdout)));
    assert!(variables["JAVA_TOOL_OPTIONS"].starts_with("-Xmx1g -D"), "{variables:?}");
    assert_eq!(variables["NO_PROXY"], "intranet.example");
}

#[test]
fn an_env_file_is_what_run_sets() {
    let bursar = setup().folder(ODD).start();
    let file = printed(&bursar, "dotenv");
    // Of all readers, a shell is the strictest.
    let variables = environment(&evaluated("set -a; eval \"$1\"; env -0", text(&file.stdout)));
    assert_complete(&variables, &bursar);
}

#[test]
fn docker_arguments_are_what_run_sets() {
    let bursar = setup().folder(ODD).start();
    let arguments = printed(&bursar, "docker");
    let words = evaluated("eval \"set -- $1\"; printf '%s\\0' \"$@\"", text(&arguments.stdout));
    let words: Vec<&str> = text(&words).trim_end_matches('\0').split('\0').collect();
    let (mut volumes, mut variables) = (Vec::new(), BTreeMap::new());
    for pair in words.chunks(2) {
        match pair {
            ["--volume", volume] => volumes.push((*volume).to_owned()),
            ["--env", variable] => {
                let (name, value) = variable.split_once('=').unwrap();
                variables.insert(name.to_owned(), value.to_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_complete(&variables, &bursar);
    let dir = bursar.path().display();
    let volume = |file: &str| format!("{dir}/{file}:{dir}/{file}:ro");
    assert_eq!(volumes, [volume("ca.pem"), volume("bundle.pem")]);
    assert!(text(&arguments.stderr).contains("host networking"), "{arguments:?}");
}

#[test]
fn the_list_for_kubernetes_is_what_run_sets() {
    let bursar = setup().folder(ODD).start();
    let list = printed(&bursar, "k8s");
    let lines: Vec<&str> = text(&list.stdout).lines().collect();
    let variables = lines.chunks(2).map(|pair| {
        let name = pair[0].strip_prefix("- name: ").unwrap();
        // JSON strings are YAML strings.
        let value = serde_json::from_str(pair[1].strip_prefix("  value: ").unwrap()).unwrap();
        (name.to_owned(), value)
    });
    assert_complete(&variables.collect(), &bursar);
    assert!(text(&list.stderr).contains("bundle.pem"), "{list:?}");
}

#[test]
fn exports_for_fish_are_what_run_sets() {
    let bursar = setup().folder(ODD).start();
    let exports = printed(&bursar, "fish");
    // fish knows two escapes between single quotes, \' and \\.
    let variables = text(&exports.stdout).lines().map(|line| {
        let (name, quoted) = line.strip_prefix("set -gx ").unwrap().split_once(' ').unwrap();
        let inner = quoted
            .strip_prefix('\'')
            .and_then(|rest| rest.strip_suffix('\''))
            .unwrap();
        let mut value = String::new();
        let mut letters = inner.chars();
        while let Some(letter) = letters.next() {
            assert_ne!(letter, '\'', "the text ends early: {line}");
            match letter {
                '\\' => value.push(letters.next().unwrap()),
                other => value.push(other),
            }
        }
        (name.to_owned(), value)
    });
    assert_complete(&variables.collect(), &bursar);
}

#[tokio::test]
async fn a_token_of_env_buys_with_plain_curl() {
    if !found("curl") {
        return skip("curl is not installed");
    }
    let origin = shop().await;
    let bursar = setup().folder(ODD).trust(&origin.ca_pem).start();
    let exports = printed(&bursar, "sh");
    let mut shell = bare("sh");
    shell.args([
        "-c",
        "eval \"$1\"; exec curl -q -sSf \"$2\"",
        "sh",
        text(&exports.stdout),
        &origin.url("/goods"),
    ]);
    let page = tokio::task::spawn_blocking(move || ran(shell)).await.unwrap();
    assert_eq!(text(&page.stdout), "goods");
}
