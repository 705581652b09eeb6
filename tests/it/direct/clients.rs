//! What programs see that use real HTTP libraries: each asks a site straight and through the proxy, and prints the same.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::message::{Kind, Message, parse};
use super::script::{Line, Marks, Player, Step, say};
use super::{World, compare, replaced, report};
use crate::support::buyer::skip;
use crate::support::lab::interop;

/// What a site says on a path, and what it does then.
struct Page {
    path: &'static str,
    says: Vec<u8>,
    then: Option<Step>,
}

fn page(path: &'static str, says: impl AsRef<[u8]>, then: Option<Step>) -> Page {
    Page {
        path,
        says: says.as_ref().to_vec(),
        then,
    }
}

fn pages() -> Vec<Page> {
    let open = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end";
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ntoo short";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n";
    let with_lines = |lines: &[u8]| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";
        [&head[..], lines, b"\r\n\r\nok"].concat()
    };
    vec![
        page("/plain", with_lines(b"X-A: 1"), None),
        page("/closed", open, Some(Step::HalfClose)),
        page("/closed-without-notify", open, Some(Step::Cut)),
        page(
            "/closed-old",
            "HTTP/1.0 200 OK\r\n\r\nuntil the end",
            Some(Step::HalfClose),
        ),
        page(
            "/closed-identity",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nuntil the end",
            Some(Step::Cut),
        ),
        page("/short", short, Some(Step::HalfClose)),
        page("/short-without-notify", short, Some(Step::Cut)),
        page("/chunks-cut", chunks, Some(Step::HalfClose)),
        page("/chunks-cut-without-notify", chunks, Some(Step::Cut)),
        page("/trailers", format!("{chunks}0\r\nX-Sum: 1\r\nX-sum: 2\r\n\r\n"), None),
        page(
            "/identity",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
            Some(Step::HalfClose),
        ),
        page(
            "/hints",
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            None,
        ),
        page(
            "/reason",
            "HTTP/1.1 200 Très bien ✓\r\nContent-Length: 2\r\n\r\nok",
            None,
        ),
        page("/no-reason", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", None),
        page(
            "/999",
            "HTTP/1.1 999 Request denied\r\nContent-Length: 2\r\n\r\nno",
            None,
        ),
        page("/204", "HTTP/1.1 204 No Content\r\n\r\n", None),
        page("/order", with_lines(b"X-B: 1\r\nx-a: 2\r\nX-B: 3\r\nETag: \"4\""), None),
        page("/control", with_lines(b"X-Odd: a\x01b\x1fc"), None),
        page("/bytes", with_lines(b"X-Odd: Zo\xeb\r\nX-Utf8: Zo\xc3\xab"), None),
        page(
            "/cookies",
            with_lines(b"Set-Cookie: a=1\r\nSet-Cookie: b=2; Expires=Wed, 09 Jun 2027 10:18:14 GMT"),
            None,
        ),
        page(
            "/search?q=created:%3E2024&r=%7Ba%7D&s=a|b^c",
            with_lines(b"X-A: 1"),
            None,
        ),
        page("/post", with_lines(b"X-A: 1"), None),
        page("/post-and-close", open, Some(Step::Cut)),
    ]
}

/// A site that serves `pages`, and writes down what arrived.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(acceptor: TlsAcceptor, pages: Arc<Vec<Page>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, pages, log) = (acceptor.clone(), pages.clone(), log.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(Line::Tls(Box::new(stream.into())), &pages, &log).await;
                    }
                });
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }
}

async fn serve(line: Line, pages: &[Page], log: &Mutex<Vec<Vec<u8>>>) {
    let mut player = Player::new(line, Marks::new(), Kind::Requests);
    for number in 1.. {
        player.play(&[Step::HearMessages(number)]).await;
        let read = parse(&player.record.heard, Kind::Requests, &[], false);
        let Some(request) = read.get(number - 1).filter(|request| request.is_whole) else {
            return;
        };
        let target = request.start.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        log.lock().unwrap().push(described(request));
        let asked = String::from_utf8_lossy(target).into_owned();
        // Clients escape some of the longest target themselves.
        let found = pages
            .iter()
            .filter(|page| asked.split('?').next() == page.path.split('?').next());
        let Some(page) = found.into_iter().next() else {
            player
                .play(&[say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")])
                .await;
            continue;
        };
        player.play(&[say(&page.says)]).await;
        if let Some(step) = &page.then {
            player.play(&[step.clone(), Step::HearEnd]).await;
            return;
        }
    }
}

/// A request as text: its line, its fields without what belongs to one hop, its body.
fn described(request: &Message) -> Vec<u8> {
    let mut text = request.start.clone();
    for line in compare::lines(&request.fields) {
        text.extend_from_slice(b"\n        ");
        text.extend_from_slice(line.as_bytes());
    }
    text.extend_from_slice(b"\n        ");
    text.extend_from_slice(&request.body);
    text
}

/// One client program: its name, and how it is started for some URLs, given the roots to trust.
#[derive(Clone)]
struct Client {
    name: &'static str,
    /// For a program that takes a single URL.
    is_single: bool,
    program: PathBuf,
    arguments: Vec<String>,
}

fn here(file: &str) -> String {
    format!("{}/tests/it/direct/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// The clients on this machine.
fn clients() -> Vec<Client> {
    let works = |program: &Path, arguments: &[&str]| {
        let ran = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        ran.is_ok_and(|output| output.status.success())
    };
    let mut found = Vec::new();
    for (name, arguments) in [
        (
            "curl",
            &[
                "-q",
                "-sS",
                "-i",
                "--raw",
                "--suppress-connect-headers",
                "--http1.1",
                "--globoff",
                "--max-time",
                "8",
            ][..],
        ),
        (
            "curl that decodes",
            &[
                "-q",
                "-sS",
                "-i",
                "--suppress-connect-headers",
                "--http1.1",
                "--globoff",
                "--max-time",
                "8",
            ],
        ),
        (
            "wget",
            &[
                "--no-config",
                "-q",
                "-O",
                "-",
                "--save-headers",
                "--content-on-error",
                "--tries=1",
                "--timeout=8",
            ],
        ),
    ] {
        let program = PathBuf::from(name.split(' ').next().unwrap());
        if !works(&program, &["--version"]) {
            skip(&format!("{name} is not installed"));
            continue;
        }
        found.push(Client {
            name,
            is_single: true,
            program,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        });
    }
    let python = PathBuf::from(std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned()));
    for (name, module) in [
        ("urllib", "urllib.request"),
        ("requests", "requests"),
        ("httpx", "httpx"),
        ("aiohttp", "aiohttp"),
    ] {
        if !works(&python, &["-c", &format!("import {module}")]) {
            skip(&format!(
                "no Python with `{module}`: pip install -r tests/interop/agents/requirements.txt, or set PYTHON"
            ));
            continue;
        }
        found.push(Client {
            name,
            is_single: false,
            program: python.clone(),
            arguments: vec![here("clients.py"), name.to_owned()],
        });
    }
    let bundled = interop().join("node_modules/.bin/node");
    for (name, program, library) in [
        ("node https", PathBuf::from("node"), "https"),
        ("node fetch", bundled, "fetch"),
    ] {
        if !works(&program, &["--version"]) {
            skip(&format!("{} is not installed", program.display()));
            continue;
        }
        found.push(Client {
            name,
            is_single: false,
            program,
            arguments: vec![here("clients.mjs"), library.to_owned()],
        });
    }
    found
}

impl Client {
    /// What it printed for each URL, with its exit code if it takes one URL at a time.
    fn outputs(&self, urls: &[String], roots: &Path, proxy: Option<&str>) -> Vec<String> {
        let run = |urls: &[String]| {
            let mut command = Command::new(&self.program);
            command.env_clear().stdin(Stdio::null()).args(&self.arguments);
            for name in ["PATH", "HOME", "LD_LIBRARY_PATH", "PYENV_ROOT", "PYENV_VERSION"] {
                if let Some(value) = std::env::var_os(name) {
                    command.env(name, value);
                }
            }
            for name in [
                "SSL_CERT_FILE",
                "REQUESTS_CA_BUNDLE",
                "CURL_CA_BUNDLE",
                "NODE_EXTRA_CA_CERTS",
            ] {
                command.env(name, roots);
            }
            if self.name == "wget" {
                command.arg("--ca-certificate").arg(roots);
            }
            if let Some(proxy) = proxy {
                command.env("HTTPS_PROXY", proxy).env("https_proxy", proxy);
                command.env("NODE_USE_ENV_PROXY", "1");
            }
            if self.is_single && urls[0].contains("/post") {
                command.args(match self.name {
                    "wget" => ["--post-data", "abc"],
                    _ => ["--data", "abc"],
                });
            }
            command.args(urls).output().unwrap()
        };
        if self.is_single {
            let each = urls.iter().map(|url| {
                let output = run(std::slice::from_ref(url));
                format!(
                    "{} {:?}",
                    without_hops(&output.stdout).escape_ascii(),
                    output.status.code()
                )
            });
            return each.collect();
        }
        let output = run(urls);
        let lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        assert_eq!(
            lines.len(),
            urls.len(),
            "{}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        lines
    }
}

/// An answer as printed by curl or wget, without the lines that belong to one hop.
fn without_hops(printed: &[u8]) -> Vec<u8> {
    let lines = printed.split_inclusive(|byte| *byte == b'\n');
    let is_kept = |line: &&[u8]| {
        let lower = line.to_ascii_lowercase();
        !lower.starts_with(b"connection:") && !lower.starts_with(b"keep-alive:")
    };
    lines.filter(is_kept).collect::<Vec<_>>().concat()
}

/// What one client printed, and what the site saw of it, page by page.
async fn asked(
    client: Client,
    world: Arc<World>,
    pages: Arc<Vec<Page>>,
    is_proxied: bool,
) -> (Vec<String>, Vec<Vec<u8>>) {
    let server = Server::start(world.acceptor.clone(), pages.clone()).await;
    let host = format!("localhost:{}", server.address.port());
    let urls: Vec<String> = pages
        .iter()
        .map(|page| format!("https://{host}{}", page.path))
        .collect();
    let outputs = tokio::task::spawn_blocking(move || {
        let proxy = format!("http://{}@{}", world.agent.login, world.bursar.address);
        if is_proxied {
            client.outputs(&urls, &world.agent.ca, Some(&proxy))
        } else {
            client.outputs(&urls, &world.site_ca, None)
        }
    });
    let outputs = outputs.await.unwrap();
    let outputs = outputs.iter().map(|output| output.replace(&host, "{site}")).collect();
    let requests = std::mem::take(&mut *server.requests.lock().unwrap());
    let requests = requests
        .iter()
        .map(|request| replaced(request, host.as_bytes(), b"{site}"));
    server.task.abort();
    // A client that tries again, or a connection that is slow, must not shift the comparison.
    let mut requests: Vec<_> = requests.collect();
    requests.sort();
    (outputs, requests)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_clients_see_what_they_see_without_a_proxy() {
    let world = Arc::new(World::new());
    let pages = Arc::new(pages());
    let mut running = tokio::task::JoinSet::new();
    let clients = tokio::task::spawn_blocking(clients).await.unwrap();
    assert!(!clients.is_empty(), "no client was found");
    for (number, client) in clients.into_iter().enumerate() {
        let (world, pages) = (world.clone(), pages.clone());
        running.spawn(async move {
            let name = client.name;
            let both = [false, true]
                .map(|is_proxied| tokio::spawn(asked(client.clone(), world.clone(), pages.clone(), is_proxied)));
            let [direct, proxied] = both;
            let (direct, proxied) = (direct.await.unwrap(), proxied.await.unwrap());
            let mut rows = Vec::new();
            for ((page, direct), proxied) in pages.iter().zip(&direct.0).zip(&proxied.0) {
                let mut differing = Vec::new();
                if direct != proxied {
                    differing.push(format!("sees: direct {direct}, proxied {proxied}"));
                }
                rows.push((format!("{name}, {}", page.path), differing));
            }
            let mut differing = Vec::new();
            let (one, other) = (shown(&direct.1), shown(&proxied.1));
            if one.len() != other.len() {
                differing.push(format!("{} requests, proxied {}", one.len(), other.len()));
            }
            for (one, other) in one.iter().zip(&other).filter(|(one, other)| one != other) {
                differing.push(format!("the site sees: direct {one}\n      proxied {other}"));
            }
            rows.push((format!("{name}, requests"), differing));
            (number, rows)
        });
    }
    let mut found = Vec::new();
    while let Some(rows) = running.join_next().await {
        found.push(rows.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    found.sort();
    drop(world);
    let rows: Vec<_> = found.into_iter().flat_map(|(_, rows)| rows).collect();
    report(rows.len(), rows.into_iter());
}

fn shown(requests: &[Vec<u8>]) -> Vec<String> {
    let requests = requests
        .iter()
        .map(|request| String::from_utf8_lossy(request).into_owned());
    requests.collect()
}
