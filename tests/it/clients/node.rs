//! Node 20, which knows no proxy variables: `NODE_OPTIONS` makes it obey. Every request gives what it gives without a
//! proxy, and reaches the site through bursar.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{bare, ran, run, shop, text};
use crate::support::bursar::{Bursar, setup};
use crate::support::buyer::skip;
use crate::support::lab::interop;
use crate::support::origin::{Answer, Origin, Parts, Seen, Speaks, answer, certificate, streamed};

type Sender = mpsc::Sender<std::io::Result<Bytes>>;

/// Answers with what arrived; `/stream` sends a part at once and another one for each `/next`; `/endless` never ends.
#[derive(Clone, Default)]
struct Site {
    streams: Arc<Mutex<Vec<Sender>>>,
    parts: Arc<Mutex<usize>>,
    endless: Arc<Mutex<Vec<Sender>>>,
}

impl Site {
    fn answer(&self, request: &Seen) -> Answer {
        match request.target.as_str() {
            "/stream" => streamed(answer(200, &[], ""), open(&self.streams)),
            "/endless" => streamed(answer(200, &[], ""), open(&self.endless)),
            "/next" => {
                self.next();
                answer(200, &[], "next")
            }
            _ => answer(200, &[("content-type", "application/json")], echo(request).to_string()),
        }
    }

    /// One more part of the stream, and its end after the third.
    fn next(&self) {
        let (mut streams, mut parts) = (self.streams.lock().unwrap(), self.parts.lock().unwrap());
        *parts += 1;
        match *parts % 3 {
            0 => streams.clear(),
            part => streams
                .last()
                .unwrap()
                .try_send(Ok(format!("part {part}").into()))
                .unwrap(),
        }
    }
}

/// A body that has sent its first part.
fn open(kept: &Mutex<Vec<Sender>>) -> Parts {
    let (sender, parts) = Parts::new();
    sender.try_send(Ok("part 0".into())).unwrap();
    kept.lock().unwrap().push(sender);
    parts
}

/// The request without what belongs to the connection.
fn echo(request: &Seen) -> Value {
    let of_connection = ["via", "connection", "keep-alive"];
    let own = |name: &str| !of_connection.contains(&name);
    let fields = request.headers.iter().filter(|(name, _)| own(name.as_str()));
    let mut fields: Vec<String> = fields.map(|(name, value)| format!("{name}: {value:?}")).collect();
    fields.sort();
    json!({
        "method": request.method,
        "target": request.target,
        "fields": fields,
        "sha256": format!("{:x?}", Sha256::digest(&request.body)),
        "length": request.body.len(),
    })
}

/// The `node` on the PATH, and whether it needs help.
fn node() -> Option<(PathBuf, bool)> {
    let asked = Command::new("node")
        .args([
            "-p",
            "process.execPath + ' ' + process.allowedNodeEnvironmentFlags.has('--use-env-proxy')",
        ])
        .output();
    let Some(asked) = asked.ok().filter(|output| output.status.success()) else {
        skip("node is not installed");
        return None;
    };
    let (path, obeys) = text(&asked.stdout).trim().rsplit_once(' ').unwrap();
    Some((path.into(), obeys == "true"))
}

/// Newer versions leave agents alone that a program made itself; these requests go past every proxy.
const LEFT_ALONE: [&str; 4] = ["except", "httpsNoAgent", "httpsOwnAgent", "httpsQueue"];

struct Sites {
    secure: Origin,
    plain: Origin,
}

impl Sites {
    async fn start() -> Self {
        let site = Site::default();
        let answers = move |request: Seen| {
            let site = site.clone();
            async move { site.answer(&request) }
        };
        let names = || certificate(&["localhost", "127.0.0.1"], |_| {});
        Self {
            secure: Origin::start(Speaks::H1AndH2, names(), answers.clone()).await,
            plain: Origin::start(Speaks::Plain, names(), answers).await,
        }
    }

    fn arguments(&self, node: &std::path::Path, ways: &[&str]) -> Vec<String> {
        let script = interop().join("agents/requests.mjs");
        let mut arguments = vec![node.display().to_string(), script.display().to_string()];
        arguments.push(self.secure.url(""));
        arguments.push(format!("http://localhost:{}", self.plain.address.port()));
        arguments.extend(ways.iter().map(|way| (*way).to_owned()));
        arguments
    }

    /// The path of each request after the first so many of each site, and whether it came through bursar.
    fn arrived(&self, [secure, plain]: [usize; 2]) -> Vec<(String, bool)> {
        let seen = [&self.secure.seen()[secure..], &self.plain.seen()[plain..]].concat();
        let described = |one: Seen| (one.target, one.headers.contains_key("via"));
        seen.into_iter().map(described).collect()
    }

    fn so_far(&self) -> [usize; 2] {
        [self.secure.seen().len(), self.plain.seen().len()]
    }
}

async fn printed_by(command: Command) -> Value {
    let output = tokio::task::spawn_blocking(move || ran(command)).await.unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn behind(bursar: &Bursar, arguments: &[String]) -> Command {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(bursar.path(), &arguments)
}

#[tokio::test]
async fn every_request_is_as_without_a_proxy_and_comes_through_it() {
    let Some((node, obeys)) = node() else { return };
    let sites = Sites::start().await;
    // A folder whose name NODE_OPTIONS must quote.
    let bursar = setup()
        .folder("a \"b\" \\c")
        .trust(&sites.secure.ca_pem)
        .proxy("via = true\n")
        .start();
    let arguments = sites.arguments(&node, if obeys { &LEFT_ALONE } else { &["except"] });

    let mut direct = bare(&arguments[0]);
    direct.args(&arguments[1..]);
    direct.env("NODE_EXTRA_CA_CERTS", bursar.path().join("origin-ca.pem"));
    let direct = printed_by(direct).await;
    assert!(sites.arrived([0, 0]).iter().all(|(_, proxied)| !proxied));
    let direct_run = sites.so_far();

    let through = printed_by(behind(&bursar, &arguments)).await;
    for (way, got) in direct.as_object().unwrap() {
        assert_eq!(through[way], *got, "{way}");
        assert!(got.get("error").is_none(), "{way}: {got}");
    }
    assert_eq!(direct["fetchStream"]["parts"].as_array().unwrap().len(), 3, "{direct}");
    assert_eq!(direct["fetchAbort"], "AbortError");
    if !obeys {
        let one_socket = json!({ "got": [200, 200, 200], "left": 0, "ports": 1 });
        assert_eq!(direct["httpsQueue"], one_socket);
    }

    let arrived = sites.arrived(direct_run);
    assert_eq!(arrived.len(), direct_run.iter().sum::<usize>());
    for (target, proxied) in arrived {
        assert!(proxied, "{target}");
    }
}

#[tokio::test]
async fn fetch_and_https_buy() {
    let Some((node, _)) = node() else { return };
    let origin = shop().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let script = interop().join("agents/requests.mjs");
    let url = origin.url("");
    let ways = ["fetch", "https", "fetchPost"];
    let mut arguments = vec![
        node.to_str().unwrap(),
        script.to_str().unwrap(),
        &url,
        "http://localhost:1",
        "only",
    ];
    arguments.extend(ways);
    let got = printed_by(run(bursar.path(), &arguments)).await;
    for way in ways {
        assert_eq!(got[way], json!({ "status": 200, "body": "goods" }), "{way}");
    }
    assert_eq!(bursar.states(), ["settled", "settled", "settled"]);
    assert_eq!(origin.payments().len(), 3);
}

#[tokio::test]
async fn no_proxy_is_obeyed() {
    let Some((node, obeys)) = node() else { return };
    if obeys {
        return;
    }
    let sites = Sites::start().await;
    let bursar = setup().proxy("via = true\n").start();
    let port = sites.plain.address.port();
    for (no_proxy, past) in [
        ("example.com,localhost", true),
        (&*format!("localhost:{port}"), true),
        ("*", true),
        (".localhost", false),
        ("ocalhost", false),
        ("localhost:1", false),
        ("sub.localhost", false),
    ] {
        let before = sites.plain.seen().len();
        let mut command = behind(&bursar, &sites.arguments(&node, &["only", "fetchPlain", "http"]));
        command.env("NO_PROXY", no_proxy);
        let got = printed_by(command).await;
        assert_eq!(got["http"]["status"], 200, "{no_proxy}: {got}");
        assert_eq!(got["fetchPlain"]["status"], 200, "{no_proxy}: {got}");
        for request in &sites.plain.seen()[before..] {
            assert_eq!(
                !request.headers.contains_key("via"),
                past,
                "{no_proxy} {}",
                request.target
            );
        }
    }
}

#[tokio::test]
async fn a_refused_login_is_an_error_that_says_so() {
    let Some((node, obeys)) = node() else { return };
    if obeys {
        return;
    }
    let sites = Sites::start().await;
    let bursar = setup().start();
    let arguments = sites.arguments(&node, &["only", "fetch", "https", "httpsQueue"]);
    let script = "https_proxy=\"http://research:wrong@${https_proxy#*@}\" exec \"$@\"";
    let mut wrapped = vec!["sh", "-c", script, "sh"];
    wrapped.extend(arguments.iter().map(String::as_str));
    let got = printed_by(run(bursar.path(), &wrapped)).await;
    assert!(got["https"]["error"].as_str().unwrap().contains("407"), "{got}");
    assert!(got["fetch"]["cause"].as_str().unwrap().contains("407"), "{got}");
    // One after the other, and none waits for ever.
    let queue = got["httpsQueue"]["got"].as_array().unwrap();
    assert_eq!(queue.len(), 3);
    assert!(
        queue.iter().all(|error| error.as_str().unwrap().contains("407")),
        "{got}"
    );
    assert_eq!(got["httpsQueue"]["left"], 0);
    assert!(sites.secure.seen().is_empty());
}

/// The warning is for those who run an old Node, not for those who have one.
#[test]
fn only_who_runs_an_old_node_is_told() {
    let Some((node, obeys)) = node() else { return };
    let bursar = setup().start();
    let said = |client: &[&str]| text(&ran(run(bursar.path(), client)).stderr).to_owned();
    assert_eq!(said(&["true"]), "");
    assert_eq!(said(&["sh", "-c", "node --version"]), "");
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("agent");
    std::fs::write(&script, "#!/usr/bin/env node\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, executable).unwrap();
    for client in [
        &["node", "-e", "0"][..],
        &[node.to_str().unwrap(), "-e", "0"],
        &[script.to_str().unwrap()],
    ] {
        let said = said(client);
        assert_eq!(said.contains("ignores proxy variables"), !obeys, "{client:?}: {said}");
    }
}
