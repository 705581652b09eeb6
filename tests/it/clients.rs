//! Unmodified clients behind `bursar run` and `bursar env`: what they are told by variables is all that they know.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Home, WALLET_KEY, bin, bursar, setup};
use crate::support::buyer::{Buyer, buyer, lab, skip};
use crate::support::lab::{Lab, interop};
use crate::support::origin::{Origin, answer};
use crate::support::seller;

const FUNDS: u128 = 1_000_000;
const CENT: u128 = 10_000;

/// Variables of whoever runs the tests that would change what these tests see.
const OURS: [&str; 20] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "JAVA_TOOL_OPTIONS",
    "NODE_USE_ENV_PROXY",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "CURL_HOME",
    "GIT_SSL_CAINFO",
    "GIT_SSL_NO_VERIFY",
    "BURSAR_DIR",
];

fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    for name in OURS {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// `bursar run --agent research -- …`
fn run(dir: &Path, client: &[&str]) -> Command {
    let mut command = bare(bin());
    command
        .args(["run", "--agent", "research", "--dir"])
        .arg(dir)
        .arg("--")
        .args(client);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn ran(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn found(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Both protocol versions, one cent each.
fn assert_two_cents_moved(buyer: &Buyer, lab: &Lab) {
    let moved = buyer.transfers();
    assert_eq!(moved.len(), 2, "{moved:?}");
    for transfer in &moved {
        assert_eq!(
            (transfer.to.as_str(), transfer.atoms),
            (lab.pay_to.to_lowercase().as_str(), CENT)
        );
    }
    assert_eq!(buyer.balance(), FUNDS - 2 * CENT);
    assert_eq!(buyer.bursar.states(), ["settled", "settled"]);
}

fn shops(lab: &Lab) -> [String; 2] {
    [format!("{}/paid", lab.v2), format!("{}/v1/paid", lab.v1)]
}

/// An agent of `tests/interop/agents`, which prints what it got.
fn agents_buy(agent: &[&str]) {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    for url in shops(lab) {
        let mut client = agent.to_vec();
        client.push(&url);
        let page: Value = serde_json::from_slice(&ran(run(buyer.bursar.path(), &client)).stdout).unwrap();
        assert_eq!(page["status"], 200, "{page}");
        assert!(page["body"].as_str().unwrap().contains("\"paid\":true"), "{page}");
        assert!(page["headers"]["bursar-payment"].is_string(), "{page}");
    }
    assert_two_cents_moved(&buyer, lab);
}

#[test]
fn curl_buys() {
    let Some(lab) = lab() else { return };
    if !found("curl") {
        return skip("curl is not installed");
    }
    for version in ["--http1.1", "--http2"] {
        let buyer = buyer(lab, FUNDS);
        for url in shops(lab) {
            let page = ran(run(buyer.bursar.path(), &["curl", "-q", "-sSf", version, &url]));
            assert!(text(&page.stdout).contains("\"paid\":true"), "{page:?}");
        }
        assert_two_cents_moved(&buyer, lab);
    }
}

#[tokio::test]
async fn curl_buys_over_h2_where_the_site_speaks_it() {
    if !found("curl") {
        return skip("curl is not installed");
    }
    let origin = shop().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let url = origin.url("/goods");
    let asked = run(
        bursar.path(),
        &[
            "curl",
            "-q",
            "-sS",
            "--http2",
            "-w",
            " %{http_version} %{http_code}",
            &url,
        ],
    );
    let page = tokio::task::spawn_blocking(move || ran(asked)).await.unwrap();
    assert_eq!(text(&page.stdout), "goods 2 200");
    assert_eq!(bursar.states(), ["settled"]);
    assert_eq!(origin.seen()[1].version, http::Version::HTTP_2);
}

#[test]
fn node_fetch_buys() {
    let Some(lab) = lab() else { return };
    let agent = interop().join("agents/fetch.mjs");
    agents_buy(&[lab.node.to_str().unwrap(), agent.to_str().unwrap()]);
}

#[test]
fn python_requests_buys() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_requests = Command::new(&python).args(["-c", "import requests"]).output();
    if !has_requests.is_ok_and(|output| output.status.success()) {
        return skip("no Python with `requests`: pip install -r tests/interop/agents/requirements.txt, or set PYTHON");
    }
    let agent = interop().join("agents/requests_get.py");
    agents_buy(&[&python, agent.to_str().unwrap()]);
}

/// wget has no variable for roots, so it is told by an option, as its users do.
#[test]
fn wget_buys() {
    let Some(lab) = lab() else { return };
    if !found("wget") {
        return eprintln!("skipped: wget is not installed");
    }
    let buyer = buyer(lab, FUNDS);
    for url in shops(lab) {
        let script = format!("exec wget --no-config -q -O - --ca-certificate=\"$SSL_CERT_FILE\" {url}");
        let page = ran(run(buyer.bursar.path(), &["sh", "-c", &script]));
        assert!(text(&page.stdout).contains("\"paid\":true"), "{page:?}");
    }
    assert_two_cents_moved(&buyer, lab);
}

#[tokio::test]
async fn git_buys() {
    if !found("git") {
        return eprintln!("skipped: git is not installed");
    }
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    // The "dumb" protocol: the list of refs is a file.
    let origin = Origin::https(|request| async move {
        match (request.target.split('?').next(), request.is_paid()) {
            (Some("/repository.git/info/refs"), false) => seller::asks("10000"),
            (Some("/repository.git/info/refs"), true) => answer(
                200,
                &[
                    ("payment-response", &seller::receipt(true, seller::TX)),
                    ("content-type", "text/plain"),
                ],
                format!("{COMMIT}\trefs/heads/main\n"),
            ),
            _ => answer(200, &[("content-type", "text/plain")], "ref: refs/heads/main\n"),
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let url = origin.url("/repository.git");
    let mut asked = run(bursar.path(), &["git", "ls-remote", &url, "refs/heads/main"]);
    asked
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    asked.env("GIT_TERMINAL_PROMPT", "0");
    let listed = tokio::task::spawn_blocking(move || ran(asked)).await.unwrap();
    assert_eq!(text(&listed.stdout), format!("{COMMIT}\trefs/heads/main\n"));
    assert_eq!(bursar.states(), ["settled"]);
}

/// Sells "goods" for a cent.
async fn shop() -> Origin {
    Origin::https(|request| async move {
        if request.is_paid() {
            seller::sold("goods")
        } else {
            seller::asks("10000")
        }
    })
    .await
}

/// What `variables` of product §2.2 are there, for which file they must point to.
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

/// `env -0`, read.
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
    let bursar = setup().start();
    let mut command = run(bursar.path(), &["env", "-0"]);
    command
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
    // bursar.toml takes the wallet key from this variable; a shell that starts the server often starts agents as well.
    assert_eq!(
        variables.get("BURSAR_TEST_WALLET"),
        None,
        "the agent got the wallet key"
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

fn printed(bursar: &Bursar, format: &str) -> Output {
    let mut command = bare(bin());
    command
        .args(["env", "--agent", "research", "--format", format, "--dir"])
        .arg(bursar.path());
    ran(command)
}

/// Lets `sh` read `input`, then shows what came of it.
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
        text(&exports.stderr).contains("The token in this output ends on 20"),
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
    // A shell is the strictest of its readers.
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

#[test]
fn the_exit_code_is_the_childs() {
    let bursar = setup().start();
    let code = |script: &str| {
        run(bursar.path(), &["sh", "-c", script])
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(code("exit 0"), Some(0));
    assert_eq!(code("exit 42"), Some(42));
    assert_eq!(code("kill -9 $$"), Some(128 + 9));

    let failed = run(bursar.path(), &["/no/such/program", "--flag"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(125));
    assert!(
        text(&failed.stderr).contains("cannot run /no/such/program"),
        "{failed:?}"
    );
    let mut stranger = bare(bin());
    stranger
        .args(["run", "--agent", "stranger", "--dir"])
        .arg(bursar.path())
        .args(["--", "true"]);
    let failed = stranger.output().unwrap();
    assert_eq!(failed.status.code(), Some(125));
    assert!(
        text(&failed.stderr).contains("bursar agents add stranger"),
        "{failed:?}"
    );
}

#[test]
fn without_a_server_nothing_is_run_and_the_way_out_is_named() {
    let home = setup().home();
    let start = format!("bursar serve --dir {}", home.path().display());
    let assert_said = |home: &Home| {
        let failed = run(home.path(), &["touch", "was-run"])
            .current_dir(home.path())
            .output()
            .unwrap();
        assert_eq!(failed.status.code(), Some(125));
        assert!(text(&failed.stderr).contains(&start), "{failed:?}");
        assert!(!home.path().join("was-run").exists());
        let failed = bursar(home.path(), &["env", "--agent", "research"]);
        assert_eq!(failed.status.code(), Some(5));
        assert!(
            failed.stdout.is_empty() && text(&failed.stderr).contains(&start),
            "{failed:?}"
        );
    };
    assert_said(&home);

    // A killed server leaves its address behind. Somebody else may have its port now.
    let mut server = home.serve();
    let port = server.address;
    let home = server.kill();
    assert!(home.path().join("run/listen").exists());
    let _somebody_else = std::net::TcpListener::bind(port).unwrap();
    assert_said(&home);
}

/// A child that says "ready" and then exits with 7 on `signal`.
fn waiting_child(dir: &Path, signal: &str) -> std::process::Child {
    let script = format!("trap 'kill $!; exit 7' {signal}; sleep 600 & echo ready; wait");
    let mut child = run(dir, &["sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    child
}

#[test]
fn signals_are_handed_to_the_child() {
    use rustix::process::Signal;
    let bursar = setup().start();
    for (name, signal) in [("TERM", Signal::TERM), ("HUP", Signal::HUP)] {
        let mut child = waiting_child(bursar.path(), name);
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(7), "{name}");
    }
}

#[tokio::test]
async fn the_token_of_a_run_dies_with_its_child() {
    let bursar = setup().start();
    let output = ran(run(bursar.path(), &["sh", "-c", "printf %s \"$HTTPS_PROXY\""]));
    let login = text(&output.stdout)
        .strip_prefix("http://")
        .unwrap()
        .rsplit_once('@')
        .unwrap()
        .0
        .to_owned();
    let agent = Agent {
        login,
        ..Agent::of(&bursar)
    };
    let began = Instant::now();
    loop {
        let (_, head) = agent.connect_answer("localhost:1").await;
        if head.starts_with("HTTP/1.1 407") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "still let in: {head}");
    }
    // The agent's own token lives on.
    let (_, head) = Agent::of(&bursar).connect_answer("localhost:1").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[test]
fn tokens_are_stored_only_as_hashes() {
    let bursar = setup().start();
    let of_run = ran(run(bursar.path(), &["sh", "-c", "printf %s \"$HTTPS_PROXY\""]));
    let mut during = run(
        bursar.path(),
        &[
            "sh",
            "-c",
            "printf '%s ' \"$HTTPS_PROXY\"; cat \"$1/agents.toml\"",
            "sh",
        ],
    );
    during.arg(bursar.path());
    let during = ran(during);
    let of_env = printed(&bursar, "dotenv");
    let token = |output: &Output| {
        let after = text(&output.stdout).split_once("bur_").unwrap().1;
        after.split('@').next().unwrap().to_owned()
    };
    let tokens = [
        bursar.home.token.strip_prefix("bur_").unwrap().to_owned(),
        token(&of_run),
        token(&of_env),
        token(&during),
    ];
    let file_during_run = text(&during.stdout).split_once(' ').unwrap().1;
    assert!(file_during_run.contains("purpose = \"run\"") && !file_during_run.contains(&tokens[3]));
    let files = files_below(bursar.path());
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        let content = std::fs::read(&file).unwrap();
        for token in &tokens {
            assert_eq!(token.len(), 43);
            let found = content.windows(token.len()).any(|window| window == token.as_bytes());
            assert!(!found, "{} holds a token", file.display());
        }
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}
