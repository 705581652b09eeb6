//! WebSockets, gRPC, and Python libraries with variables of their own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{python, ran, run, shop, text};
use crate::support::bursar::setup;
use crate::support::lab::interop;
use crate::support::origin::pem_files;

/// A site that is a program of its own; it ends with its standard input.
struct Site {
    port: u16,
    child: Child,
}

impl Site {
    fn start(python: &str, script: &str, arguments: &[&Path]) -> Self {
        let mut child = Command::new(python)
            .arg(interop().join("agents").join(script))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line.trim().parse().unwrap();
        Self { port, child }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent(name: &str) -> String {
    interop().join("agents").join(name).display().to_string()
}

#[test]
fn websockets_come_through() {
    let Some(python) = python("aiohttp, websockets") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (ca, cert, key) = pem_files(folder.path());
    let secure = Site::start(&python, "socket_site.py", &[&cert, &key]);
    let plain = Site::start(&python, "socket_site.py", &[]);
    let bursar = setup().trust(&ca).proxy("via = true\n").start();
    for url in [
        format!("wss://localhost:{}/", secure.port),
        format!("ws://localhost:{}/", plain.port),
    ] {
        for library in ["aiohttp-socket", "websockets"] {
            let said = ran(run(bursar.path(), &[&python, &agent("libraries.py"), library, &url]));
            let (echo, via) = text(&said.stdout).split_once(" via ").unwrap();
            assert_eq!(echo, "hello", "{library} {url}");
            assert_ne!(via, "nobody", "{library} went past bursar to {url}");
        }
    }
}

#[test]
fn grpc_comes_through() {
    let Some(python) = python("grpc") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (ca, cert, key) = pem_files(folder.path());
    let site = Site::start(&python, "grpc_site.py", &[&cert, &key]);
    let bursar = setup().trust(&ca).proxy("via = true\n").start();
    let target = format!("localhost:{}", site.port);
    let output = ran(run(bursar.path(), &[&python, &agent("grpc_calls.py"), &target]));
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&got["once"], &got["twice"]), (&true.into(), &true.into()), "{got}");
    for via in got["via"].as_array().unwrap() {
        assert_ne!(via, "nobody", "gRPC went past bursar");
    }
}

#[tokio::test]
async fn python_libraries_buy() {
    let origin = shop().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut bought = 0;
    for library in ["urllib", "httpx", "aiohttp", "httplib2"] {
        let Some(python) = python(library) else { return };
        let command = run(
            bursar.path(),
            &[
                &python,
                &agent("libraries.py"),
                library,
                &origin.url(&format!("/{library}")),
            ],
        );
        let page = tokio::task::spawn_blocking(move || ran(command)).await.unwrap();
        assert_eq!(text(&page.stdout), "goods", "{library}");
        bought += 1;
    }
    assert_eq!(bursar.states(), vec!["settled"; bought]);
    assert_eq!(origin.payments().len(), bought);
}
