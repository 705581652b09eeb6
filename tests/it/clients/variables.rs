//! What `run` and `env` set, in every format, is complete and survives quoting.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use serde_json::Value;

use super::{bare, found, printed, ran, run, shop, text};
use crate::support::bursar::{Bursar, Home, WALLET_KEY, bin, setup};
use crate::support::buyer::skip;

/// The variables of R231, with what each must be: the proxy, or one of the two files.
const PROXIES: [&str; 13] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "WS_PROXY",
    "ws_proxy",
    "WSS_PROXY",
    "wss_proxy",
    "grpc_proxy",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
];
const ADDED: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
const REPLACED: [&str; 14] = [
    "SSL_CERT_FILE",
    "NIX_SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "PERL_LWP_SSL_CA_FILE",
    "HEX_CACERTS_PATH",
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
        .env("WSS_PROXY", "http://old.example:1")
        .env("CLOUDSDK_PROXY_ADDRESS", "old.example")
        .env("NIX_SSL_CERT_FILE", "/nix/old.example.crt")
        .env("NODE_OPTIONS", "--stack-trace-limit=20")
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
    assert_eq!(
        variables["NODE_OPTIONS"],
        format!(
            "--stack-trace-limit=20 --require={}/node-proxy.cjs",
            bursar.path().display()
        )
    );
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
        .env("NODE_OPTIONS", "--stack-trace-limit=20")
        .env("PIP_PROXY", "http://old.example:1")
        .env("no_proxy", "intranet.example");
    let exports = ran(command);
    // Evaluated twice by the same shell.
    let script = "export PIP_PROXY=http://old.example:1; eval \"$1\"; eval \"$1\"; env -0";
    let variables = environment(&evaluated(script, text(&exports.stdout)));
    assert_eq!(variables.get("PIP_PROXY"), None, "another proxy is left");
    assert!(
        variables["NODE_OPTIONS"].starts_with("--stack-trace-limit=20 --require="),
        "{variables:?}"
    );
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
    assert_eq!(
        volumes,
        [volume("ca.pem"), volume("bundle.pem"), volume("node-proxy.cjs")]
    );
    assert!(variables["NODE_OPTIONS"].contains("node-proxy.cjs"), "{variables:?}");
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
    let variables = variables.collect();
    assert_complete(&variables, &bursar);
    // Node would not start where that file is missing.
    assert_eq!(variables.get("NODE_OPTIONS"), None);
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

/// `env` for a place that bursar cannot see.
fn elsewhere(home: &Home, format: &str, more: &[&str]) -> Output {
    let mut command = bare(bin());
    command
        .args(["env", "--agent", "research", "--format", format])
        .args(more);
    command.arg("--dir").arg(home.path());
    ran(command)
}

#[test]
fn other_machines_get_their_address_their_paths_and_a_shorter_life() {
    // Without a server too: the address is not its own.
    let home = setup().home();
    let place = [
        "--address",
        "Bursar.internal:8402",
        "--ca-dir",
        "/etc/bursar",
        "--ttl",
        "7d",
    ];
    let printed = elsewhere(&home, "dotenv", &place);
    let variables = environment(&evaluated("set -a; eval \"$1\"; env -0", text(&printed.stdout)));
    for name in PROXIES {
        assert!(variables[name].ends_with("@bursar.internal:8402"), "{name}");
    }
    for name in ADDED {
        assert_eq!(variables[name], "/etc/bursar/ca.pem", "{name}");
    }
    for name in REPLACED {
        assert_eq!(variables[name], "/etc/bursar/bundle.pem", "{name}");
    }
    assert!(variables["JAVA_TOOL_OPTIONS"].contains("-Dhttps.proxyHost=bursar.internal -Dhttps.proxyPort=8402"));
    assert!(!text(&printed.stdout).contains("node-proxy"), "{printed:?}");
    assert!(text(&printed.stderr).contains("/ca.pem and ") && text(&printed.stderr).contains("to /etc/bursar"));

    let docker = elsewhere(&home, "docker", &place);
    let dir = home.path().display();
    for file in ["ca.pem", "bundle.pem", "node-proxy.cjs"] {
        let volume = format!("--volume '{dir}/{file}:/etc/bursar/{file}:ro'");
        assert!(text(&docker.stdout).contains(&volume), "{volume}: {docker:?}");
    }
    assert!(text(&docker.stdout).contains("NODE_OPTIONS=--require=/etc/bursar/node-proxy.cjs"));
    assert!(!text(&docker.stderr).contains("loopback"), "{docker:?}");
    let v6 = elsewhere(&home, "dotenv", &["--address", "[2001:db8::1]:80"]);
    assert!(text(&v6.stdout).contains("@[2001:db8::1]:80"), "{v6:?}");

    let listed = home.run(&["agents", "tokens", "research", "--json"]);
    let tokens: Vec<Value> = text(&listed.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let life = |token: &Value| {
        let at = |member: &str| token[member].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        at("expires").duration_since(at("created")).as_hours()
    };
    let of_env: Vec<&Value> = tokens.iter().filter(|token| token["purpose"] == "env").collect();
    assert_eq!(
        of_env.iter().map(|token| life(token)).collect::<Vec<_>>(),
        [7 * 24, 7 * 24, 30 * 24]
    );
    // The id to revoke it by is said where it was made.
    let revoke = format!(
        "bursar agents revoke research --token {}",
        of_env[0]["id"].as_str().unwrap()
    );
    assert!(text(&printed.stderr).contains(&revoke), "{printed:?}");

    for (wrong, why) in [
        (["--ttl", "91d"], "at most 90d"),
        (["--ttl", "soon"], "7d or 12h"),
        (["--ca-dir", "certificates"], "absolute path"),
        (["--address", "bursar.internal"], "HOST:PORT"),
        (["--address", "http://bursar.internal:1"], "HOST:PORT"),
    ] {
        let mut command = bare(bin());
        command
            .args(["env", "--agent", "research"])
            .args(wrong)
            .arg("--dir")
            .arg(home.path());
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
        assert!(
            refused.stdout.is_empty() && text(&refused.stderr).contains(why),
            "{refused:?}"
        );
    }
}

/// The tables of docs/agents.md name what is set, and nothing else.
#[test]
fn the_documented_variables_are_those_that_are_set() {
    let bursar = setup().upstream("allow_private = []\n").start();
    let printed = printed(&bursar, "docker");
    let words = text(&printed.stdout).split("--env '").skip(1);
    let set: BTreeSet<&str> = words.map(|variable| variable.split('=').next().unwrap()).collect();

    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/agents.md")).unwrap();
    let start = page.find("### Variables\n").unwrap();
    let section = &page[start..page.find("Some clients need more").unwrap()];
    let mut documented = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let names = row.split('|').find(|cell| cell.contains('_')).unwrap_or("");
        documented.extend(names.split('`').skip(1).step_by(2).filter(|name| name.contains('_')));
    }
    assert_eq!(documented, set);
}
