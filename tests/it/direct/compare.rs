//! What may differ between a run through the proxy and the direct one, and a list of what else does.
//!
//! Allowed, and nothing else:
//!
//! * a missing space after a status without a reason, and an empty line before a request (RFC 9112 §2.2, §4);
//! * what belongs to one hop: the fields in [`OF_ONE_HOP`], and in `Connection` the options `close`, `keep-alive` and
//!   `te`. How a connection ends is compared itself;
//! * where chunks begin and end, and their extensions (RFC 9112 §7.1.1);
//! * white space around a value, and folded lines joined by a space (RFC 9112 §5);
//! * how a connection ends on which every answer is whole without that end. That it ends is compared;
//! * how a site's connection ends whose client has left. That it ends is compared; on an upgraded one also how;
//! * that a client's connection stays open when the site has closed its own after a whole answer, in the absolute form: it
//!   is a connection to the proxy, and the next request may be for another site;
//! * that a site's connection stays open after the client has left: the proxy may keep it. A row in which the site
//!   listens for the end says that the end must come.

use super::message::{Field, Framing, Kind, Message, is, methods, parse};
use super::script::Record;

const OF_ONE_HOP: [&str; 3] = ["keep-alive", "proxy-connection", "proxy-authorization"];
const OPTIONS_OF_ONE_HOP: [&str; 3] = ["close", "keep-alive", "te"];

/// What both sides of a run saw. Connections of the site on which nothing arrived are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub client: Record,
    pub site: Vec<Record>,
}

/// Each difference as a sentence. `raw` bytes are no HTTP/1.
pub(super) fn differences(direct: &Outcome, proxied: &Outcome, raw: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |side: &str, kind: Kind, direct: &Record, proxied: &Record| {
        let mut differing = Vec::new();
        if raw {
            differ(&mut differing, "bytes", &shown(&direct.heard), &shown(&proxied.heard));
        } else {
            compare(&mut differing, kind, direct, proxied);
        }
        if !ends_alike(kind, direct, proxied) {
            differ(&mut differing, "end", &direct.end, &proxied.end);
        }
        if let Some(step) = &proxied.stuck {
            differing.push(format!("stuck at its {step}"));
        }
        found.extend(differing.into_iter().map(|line| format!("{side}: {line}")));
    };
    note("client", Kind::Answers, &direct.client, &proxied.client);
    let nothing = Record::default();
    for number in 0..direct.site.len().max(proxied.site.len()) {
        let direct = direct.site.get(number).unwrap_or(&nothing);
        let proxied = proxied.site.get(number).unwrap_or(&nothing);
        note(
            &format!("site, connection {}", number + 1),
            Kind::Requests,
            direct,
            proxied,
        );
    }
    found
}

/// Whether the last answer is a problem document of the proxy with this status.
pub(super) fn is_problem(client: &Record, status: u16) -> bool {
    let answers = parse(
        &client.heard,
        Kind::Answers,
        &methods(&client.said),
        client.end.is_some(),
    );
    answers.last().is_some_and(|answer| {
        let has_status = answer.start.starts_with(format!("HTTP/1.1 {status} ").as_bytes());
        let is_ours = |field: &Field| is(field, "content-type") && field.value == b"application/problem+json";
        has_status && answer.is_whole && answer.fields.iter().any(is_ours)
    })
}

/// In the absolute form: a client that waits for the end of a connection on which every answer is whole.
pub(super) fn excuse_open(direct: &Record, proxied: &mut Record) {
    let waits = proxied.stuck.as_ref().is_some_and(|step| step.ends_with("(HearEnd)"));
    if waits && direct.end.is_some() && proxied.end.is_none() && is_idle(direct) && is_idle(proxied) {
        proxied.stuck = None;
        proxied.end = direct.end;
    }
}

fn ends_alike(kind: Kind, direct: &Record, proxied: &Record) -> bool {
    let both_end = direct.end.is_some() && proxied.end.is_some();
    let how_matters = match kind {
        Kind::Answers => !is_idle(direct) || !is_idle(proxied),
        Kind::Requests => direct.said.starts_with(b"HTTP/1.1 101 "),
    };
    direct.end == proxied.end || (both_end && !how_matters)
}

/// Whether a client's connection could end at this point without any loss.
fn is_idle(client: &Record) -> bool {
    let messages = parse(&client.heard, Kind::Answers, &methods(&client.said), false);
    let is_done = |message: &Message| message.is_whole && message.framing != Framing::Upgraded;
    !messages.is_empty() && messages.iter().all(is_done)
}

fn compare(found: &mut Vec<String>, kind: Kind, direct: &Record, proxied: &Record) {
    let read = |record: &Record| parse(&record.heard, kind, &methods(&record.said), record.end.is_some());
    let (direct, proxied) = (read(direct), read(proxied));
    if direct.len() != proxied.len() {
        let starts = |messages: &[Message]| -> Vec<String> { messages.iter().map(|m| shown(&m.start)).collect() };
        differ(found, "messages", &starts(&direct), &starts(&proxied));
    }
    for (direct, proxied) in direct.iter().zip(&proxied) {
        differ(found, "start line", &shown(&direct.start), &shown(&proxied.start));
        compare_fields(found, "fields", &lines(&direct.fields), &lines(&proxied.fields));
        differ(found, "framing", &direct.framing, &proxied.framing);
        let (one, other) = (shown(&direct.body), shown(&proxied.body));
        let body = if direct.framing == Framing::Upgraded {
            "upgraded bytes"
        } else {
            "body"
        };
        if direct.body != proxied.body {
            found.push(format!("{body}: direct {one}, proxied {other}"));
        }
        compare_fields(found, "trailers", &lines(&direct.trailers), &lines(&proxied.trailers));
        differ(found, "whole", &direct.is_whole, &proxied.is_whole);
    }
}

/// Says what about the fields differs, if it is their order or the case of their names alone.
fn compare_fields(found: &mut Vec<String>, what: &str, direct: &Vec<String>, proxied: &Vec<String>) {
    let lower = |lines: &[String]| -> Vec<String> {
        let lines = lines.iter().filter_map(|line| line.split_once(": "));
        lines
            .map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()))
            .collect()
    };
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let what = match (lower(direct), lower(proxied)) {
        (direct, proxied) if direct == proxied => format!("{what}, case of names"),
        (direct, proxied) if sorted(direct.clone()) == sorted(proxied.clone()) => format!("{what}, order"),
        _ => what.to_owned(),
    };
    differ(found, &what, direct, proxied);
}

/// The fields as lines, without what belongs to one hop.
pub(super) fn lines(fields: &[Field]) -> Vec<String> {
    let kept = fields
        .iter()
        .filter(|field| !OF_ONE_HOP.iter().any(|name| is(field, name)));
    kept.filter_map(|field| {
        let mut value = shown(&field.value);
        if is(field, "connection") {
            let options = value.split(',').map(|option| option.trim().to_ascii_lowercase());
            let left: Vec<_> = options
                .filter(|option| !OPTIONS_OF_ONE_HOP.contains(&option.as_str()) && !option.is_empty())
                .collect();
            if left.is_empty() {
                return None;
            }
            value = left.join(", ");
        }
        if is(field, "transfer-encoding") {
            value.make_ascii_lowercase();
        }
        Some(format!("{}: {value}", shown(&field.name)))
    })
    .collect()
}

fn differ<T: PartialEq + std::fmt::Debug>(found: &mut Vec<String>, what: &str, direct: &T, proxied: &T) {
    if direct != proxied {
        found.push(format!("{what}: direct {}, proxied {}", short(direct), short(proxied)));
    }
}

fn short(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(600) {
        Some((at, _)) => format!("{}... ({} characters)", &text[..at], text.len()),
        None => text,
    }
}

/// Bytes as text, without loss.
pub(super) fn shown(bytes: &[u8]) -> String {
    bytes
        .escape_ascii()
        .to_string()
        .replace("\\\"", "\"")
        .replace("\\'", "'")
}
