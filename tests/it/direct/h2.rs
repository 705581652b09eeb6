//! HTTP/2, frame by frame: what a site and a client see on each stream, straight and through the proxy.
//!
//! What may differ here: where DATA frames begin, everything that belongs to the connection (settings, windows, how
//! fields are compressed), and the order of fields with different names, which libraries of HTTP/2 do not keep.
//!
//! What the library below the proxy cannot do (`docs/agents.md`) is asserted as what it does instead: a row says so with
//! [`Instead`], and the streams beside it must not notice.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::frames::{Frames, ODD, PATIENCE, Part, Stream, fields};
use super::script::{Line, Marks};
use super::targets::PATHS;
use super::{Way, World, report};

/// One exchange that differs from row to row, between two ordinary ones on the same connection.
#[derive(Clone)]
struct Row {
    name: String,
    asks: Vec<Part>,
    answers: Vec<Part>,
    instead: Option<Instead>,
    way: Way,
}

/// What the proxy does in place of passing something on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// The library takes no such target: the stream is reset, and nothing of it reaches the site.
    Reset,
    /// It ends a target before its fragment, as clients do by themselves.
    CutTarget,
    /// It takes no target that is not UTF-8: the session ends.
    EndsSession,
    /// It has no place for informational answers.
    DropsInterims,
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    client: BTreeMap<u32, Stream>,
    /// By path, since streams may overtake each other.
    site: Vec<Stream>,
    trouble: Option<String>,
}

fn request(method: &str, path: &[u8], more: &[(&str, &[u8])]) -> Part {
    let mut lines = vec![
        (":method", method.as_bytes()),
        (":scheme", b"https"),
        (":authority", b"{site}"),
    ];
    lines.extend([(":path", path), ("x-row", b"odd")]);
    lines.extend(more);
    fields(&lines)
}

fn ok() -> Vec<Part> {
    vec![
        fields(&[(":status", b"200"), ("content-type", b"text/plain")]),
        Part::Data(b"ok".to_vec()),
    ]
}

impl Row {
    fn asking(name: impl Into<String>, asks: Vec<Part>) -> Self {
        Self {
            name: name.into(),
            asks,
            answers: ok(),
            instead: None,
            way: Way::Tls,
        }
    }

    fn answering(name: impl Into<String>, answers: Vec<Part>) -> Self {
        Self {
            answers,
            ..Self::asking(name, vec![request("GET", b"/odd", &[])])
        }
    }

    async fn run(&self, world: &World, proxied: bool) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let host = format!("localhost:{}", address.port());
        let (sender, mut records) = mpsc::unbounded_channel();
        let acceptor = (self.way == Way::Tls).then(|| world.h2_acceptor.clone());
        let answers = self.answers.clone();
        let marks = Marks::new();
        let at_site = marks.clone();
        let site = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answers, sender) = (acceptor.clone(), answers.clone(), sender.clone());
                let marks = at_site.clone();
                tokio::spawn(async move {
                    let line = match acceptor {
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => Line::Tls(Box::new(stream.into())),
                            Err(_) => return,
                        },
                        None => Line::Plain(stream),
                    };
                    serve(Frames::new(line, marks), &answers, &sender).await;
                });
            }
        });
        let line = world.line(self.way, address, proxied, &["h2"]).await;
        let (client, trouble) = self.ask(Frames::new(line, marks), &host).await;
        site.abort();
        let mut seen = Vec::new();
        while let Ok(stream) = records.try_recv() {
            seen.push(stream);
        }
        seen.sort_by_key(Stream::path);
        let text = |line: &String| line.replace(&host, "{site}");
        for stream in &mut seen {
            stream
                .blocks
                .iter_mut()
                .for_each(|block| *block = block.iter().map(text).collect());
        }
        Outcome {
            client,
            site: seen,
            trouble,
        }
    }

    /// Sends all three requests at once and reads until all are answered.
    async fn ask(&self, mut frames: Frames, host: &str) -> (BTreeMap<u32, Stream>, Option<String>) {
        let addressed = |parts: &[Part]| -> Vec<Part> {
            let scheme: &[u8] = if self.way == Way::Tls { b"https" } else { b"http" };
            let filled = parts.iter().map(|part| match part {
                Part::Fields(fields) => Part::Fields(
                    fields
                        .iter()
                        .map(|(name, value)| match name.as_slice() {
                            b":authority" => (name.clone(), host.as_bytes().to_vec()),
                            b":scheme" => (name.clone(), scheme.to_vec()),
                            _ => (name.clone(), value.clone()),
                        })
                        .collect(),
                ),
                other => other.clone(),
            });
            filled.collect()
        };
        frames.open().await;
        let plain = |path: &[u8]| {
            let lines: [(&str, &[u8]); 4] = [
                (":method", b"GET"),
                (":scheme", b""),
                (":authority", b""),
                (":path", path),
            ];
            vec![fields(&lines)]
        };
        for (stream, parts) in [(1, plain(b"/first")), (ODD, self.asks.clone()), (5, plain(b"/last"))] {
            frames.send(stream, &addressed(&parts)).await;
        }
        let mut seen = BTreeMap::new();
        let reading = async {
            let is_done = |seen: &BTreeMap<u32, Stream>| {
                [1, ODD, 5]
                    .iter()
                    .all(|stream| seen.get(stream).is_some_and(|seen| seen.end.is_some()))
            };
            while !is_done(&seen) {
                frames.next(&mut seen).await?;
            }
            Ok(())
        };
        let trouble = match timeout(PATIENCE, reading).await {
            Ok(Ok(())) => None,
            Ok(Err(trouble)) => Some(trouble),
            Err(_) => Some("a stream never ended".to_owned()),
        };
        (seen, trouble)
    }
}

/// Answers what carries `x-row` as the row says, and everything else with `ok`.
async fn serve(mut frames: Frames, answers: &[Part], log: &mpsc::UnboundedSender<Stream>) {
    if !frames.accept().await {
        return;
    }
    let mut seen = BTreeMap::new();
    while let Ok(ended) = frames.next(&mut seen).await {
        let Some(stream) = ended else { continue };
        let Some(request) = seen.remove(&stream) else { continue };
        let is_odd = request.blocks.iter().flatten().any(|line| line.starts_with("x-row: "));
        let _ = log.send(request);
        let answers = if is_odd { answers.to_vec() } else { ok() };
        frames.send(stream, &answers).await;
    }
}

/// What the run through the proxy is to look like: the direct one, but for what the row says.
fn expected(instead: Option<Instead>, direct: &Outcome) -> Outcome {
    let is_odd = |stream: &Stream| stream.blocks.iter().flatten().any(|line| line.starts_with("x-row: "));
    let (mut client, mut site) = (direct.client.clone(), direct.site.clone());
    match instead {
        None | Some(Instead::EndsSession) => {}
        Some(Instead::Reset) => {
            site.retain(|stream| !is_odd(stream));
            let reset = Stream {
                end: Some("RST_STREAM 1".to_owned()),
                ..Stream::default()
            };
            client.insert(ODD, reset);
        }
        Some(Instead::CutTarget) => {
            for line in site.iter_mut().flat_map(|stream| stream.blocks.iter_mut().flatten()) {
                let end = line.find('#').unwrap_or(line.len());
                line.truncate(end);
            }
        }
        Some(Instead::DropsInterims) => {
            for stream in client.values_mut() {
                let is_interim = |block: &Vec<String>| block.iter().any(|line| line.starts_with(":status: 1"));
                stream.blocks.retain(|block| !is_interim(block));
            }
        }
    }
    Outcome {
        client,
        site,
        trouble: None,
    }
}

fn differences(instead: Option<Instead>, direct: &Outcome, proxied: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    if instead == Some(Instead::EndsSession) {
        if proxied.trouble.is_none() {
            found.push("client: the session goes on, so the row is no exception any more".to_owned());
        }
        return found;
    }
    if let Some(trouble) = &proxied.trouble {
        found.push(format!("client: {trouble}"));
    }
    let direct = expected(instead, direct);
    let nothing = Stream::default();
    for (number, direct) in &direct.client {
        let proxied = proxied.client.get(number).unwrap_or(&nothing);
        if direct != proxied {
            found.push(format!(
                "client, stream {number}: direct {direct:?}, proxied {proxied:?}"
            ));
        }
    }
    if direct.site != proxied.site {
        found.push(format!("site: direct {:?}, proxied {:?}", direct.site, proxied.site));
    }
    found
}

async fn assert_as_direct(rows: Vec<Row>) {
    let world = Arc::new(World::new());
    let count = rows.len();
    let mut running = JoinSet::new();
    for (number, row) in rows.into_iter().enumerate() {
        let world = world.clone();
        running.spawn(async move {
            let direct = row.run(&world, false).await;
            assert_eq!(direct.trouble, None, "{}: the direct run failed", row.name);
            assert_eq!(direct.site.len(), 3, "{}", row.name);
            let again = differences(None, &direct, &row.run(&world, false).await);
            assert!(again.is_empty(), "{}: two direct runs differ: {again:?}", row.name);
            let proxied = row.run(&world, true).await;
            let differing = differences(row.instead, &direct, &proxied);
            (number, format!("{} ({:?})", row.name, row.way), differing)
        });
    }
    let mut found = Vec::new();
    while let Some(row) = running.join_next().await {
        found.push(row.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    found.sort();
    drop(world);
    report(count, found.into_iter().map(|(_, name, differing)| (name, differing)));
}

#[tokio::test]
async fn requests_over_h2_pass_as_they_are_and_harm_no_other_stream() {
    let mut rows = Vec::new();
    for (name, path) in PATHS {
        let mut row = Row::asking(name, vec![request("GET", path, &[])]);
        row.instead = match path {
            path if std::str::from_utf8(path).is_err() => Some(Instead::EndsSession),
            path if path.contains(&b'#') => Some(Instead::CutTarget),
            path if path.iter().any(|byte| b"\"<>`".contains(byte)) => Some(Instead::Reset),
            _ => None,
        };
        rows.push(row);
    }
    for (name, path) in [
        ("a space", &b"/a b"[..]),
        ("a control byte", b"/a\x01b"),
        ("no slash", b"relative"),
        ("an empty target", b""),
    ] {
        let mut row = Row::asking(name, vec![request("GET", path, &[])]);
        row.instead = Some(Instead::Reset);
        rows.push(row);
    }
    rows.push(Row::asking("OPTIONS *", vec![request("OPTIONS", b"*", &[])]));
    rows.push(Row::asking("an odd method", vec![request("M-SEARCH", b"/", &[])]));
    let lines: [(&str, &[u8]); 7] = [
        ("te", b"trailers"),
        ("cookie", b"a=1"),
        ("cookie", b"b=2"),
        ("x-latin", b"Zo\xeb"),
        ("x-empty", b""),
        ("via", b"1.0 fred"),
        ("x-last", b"1"),
    ];
    rows.push(Row::asking("several fields", vec![request("GET", b"/", &lines)]));
    let upload = || {
        vec![
            request("POST", b"/", &[]),
            Part::Data(b"one".to_vec()),
            Part::Data(b"two".to_vec()),
        ]
    };
    rows.push(Row::asking("a body", upload()));
    let trailers = fields(&[("x-sum", b"1"), ("x-two", b"2")]);
    rows.push(Row::asking("trailers", [upload(), vec![trailers]].concat()));
    // With prior knowledge, inside a tunnel.
    let plain = |name: &str, asks| Row {
        way: Way::PlainTunnel,
        ..Row::asking(name, asks)
    };
    rows.push(plain("a GET without TLS", vec![request("GET", b"/?q=1", &[])]));
    rows.push(plain("a body without TLS", upload()));
    assert_as_direct(rows).await;
}

#[tokio::test]
async fn answers_over_h2_pass_as_they_are() {
    let with = |lines: &[(&str, &[u8])]| {
        let head = [&[(":status", &b"200"[..])], lines].concat();
        vec![fields(&head), Part::Data(b"ok".to_vec())]
    };
    let hints = || fields(&[(":status", b"103"), ("link", b"</a.css>")]);
    let hinted = |name, answers| Row {
        instead: Some(Instead::DropsInterims),
        ..Row::answering(name, answers)
    };
    let mut rows = vec![
        Row::answering("an ordinary one", ok()),
        Row::answering("without a body", vec![fields(&[(":status", b"204")])]),
        Row::answering(
            "an empty body",
            vec![fields(&[(":status", b"200")]), Part::Data(Vec::new())],
        ),
        Row::answering(
            "values outside ASCII",
            with(&[("x-utf8", b"Zo\xc3\xab"), ("x-latin", b"Zo\xeb")]),
        ),
        Row::answering(
            "several cookies",
            with(&[("set-cookie", b"a=1"), ("x-between", b"1"), ("set-cookie", b"b=2")]),
        ),
        Row::answering("a length", with(&[("content-length", b"2")])),
        hinted("103", [vec![hints()], ok()].concat()),
        hinted("103 twice", [vec![hints(), hints()], ok()].concat()),
        Row::answering(
            "trailers",
            [ok(), vec![fields(&[("x-sum", b"1"), ("x-two", b"2")])]].concat(),
        ),
        Row::answering(
            "trailers without a body",
            vec![fields(&[(":status", b"200")]), fields(&[("grpc-status", b"0")])],
        ),
    ];
    for status in ["299", "404", "600", "999"] {
        rows.push(Row::answering(
            status,
            vec![fields(&[(":status", status.as_bytes())]), Part::Data(b"ok".to_vec())],
        ));
    }
    for code in [2, 8, 11] {
        let parts = vec![
            fields(&[(":status", b"200")]),
            Part::Data(b"part".to_vec()),
            Part::Reset(code),
        ];
        rows.push(Row::answering(format!("reset in the middle with code {code}"), parts));
    }
    assert_as_direct(rows).await;
}
