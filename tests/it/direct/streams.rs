//! Streams: events arrive one by one, upgraded connections carry bytes both ways, and either side may leave at any time.

use super::script::{Step, hear, hear_head, say};
use super::{Situation, Way, assert_as_direct};

const GET: &str = "GET {to}/events HTTP/1.1\r\nHost: {site}\r\nAccept: text/event-stream\r\n\r\n";
const BOTH: [Way; 2] = [Way::Tls, Way::Absolute];
const ALL: [Way; 3] = [Way::Tls, Way::Absolute, Way::PlainTunnel];

/// Each event has arrived before the next is sent.
fn events(head: &str, frame: impl Fn(&str) -> String) -> (Vec<Step>, Vec<Step>) {
    let mut client = vec![say(GET), hear_head(), Step::Mark("head")];
    let mut site = vec![Step::HearMessages(1), say(head), Step::Await("head")];
    for (event, mark) in [("data: one\n\n", "1"), ("data: two\n\n", "2"), ("data: three\n\n", "3")] {
        site.extend([say(frame(event)), Step::Await(mark)]);
        client.extend([hear(event), Step::Mark(mark)]);
    }
    (client, site)
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let open = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let sized = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000\r\n\r\n";
    let chunk = |event: &str| format!("{:x}\r\n{event}\r\n", event.len());
    let mut rows = Vec::new();
    for (name, (client, site), end) in [
        ("chunks", events(chunked, chunk), "0\r\n\r\n"),
        ("close-delimited", events(open, str::to_owned), ""),
        ("with a length", events(sized, str::to_owned), ""),
    ] {
        let and = |steps: &[Step], more: Vec<Step>| [steps.to_vec(), more].concat();
        rows.push(Situation::new(
            format!("{name}, ended by the site"),
            and(&client, vec![Step::HearEnd]),
            and(&site, vec![say(end), Step::HalfClose]),
        ));
        for (how, step) in [("by leaving", Step::Leave), ("by RST", Step::Reset)] {
            rows.push(Situation::new(
                format!("{name}, ended by the client {how}"),
                and(&client, vec![step]),
                and(&site, vec![Step::HearEnd]),
            ));
        }
        for (how, step) in [("cut", Step::Cut), ("reset", Step::Reset)] {
            rows.push(Situation::new(
                format!("{name}, {how} by the site"),
                and(&client, vec![Step::HearEnd]),
                and(&site, vec![step]),
            ));
        }
    }
    let rows = rows.into_iter().flat_map(|row| row.each(&BOTH));
    assert_as_direct(rows.collect()).await;
}

#[tokio::test]
async fn upgraded_connections_carry_bytes_until_either_side_ends() {
    let ask = "GET {to}/chat HTTP/1.1\r\nHost: {site}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let (open_client, open_site) = (vec![say(ask), hear_head()], vec![Step::HearMessages(1), say(switched)]);
    let echo_client = [
        open_client.clone(),
        vec![say(b"\x81\x85abcd\0\x01\x02\x03"), hear(b"\x81\x05hello")],
    ]
    .concat();
    let echo_site = [
        open_site.clone(),
        vec![hear(b"\x81\x85abcd\0\x01\x02\x03"), say(b"\x81\x05hello")],
    ]
    .concat();
    let and = |steps: &[Step], more: Vec<Step>| [steps.to_vec(), more].concat();
    let other =
        "GET {to}/ HTTP/1.1\r\nHost: {site}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: custom/2, other\r\n\r\n";
    let rows = vec![
        Situation::new(
            "an echo, ended by the client",
            and(&echo_client, vec![Step::HalfClose, Step::HearEnd]),
            and(&echo_site, vec![Step::HearEnd, Step::HalfClose]),
        ),
        Situation::new(
            "an echo, ended by the site",
            and(&echo_client, vec![Step::HearEnd, Step::HalfClose]),
            and(&echo_site, vec![Step::HalfClose, Step::HearEnd]),
        ),
        Situation::new(
            "half open: the site goes on after the client has ended",
            and(
                &echo_client,
                vec![Step::HalfClose, hear("later"), Step::Mark("later"), Step::HearEnd],
            ),
            and(
                &echo_site,
                vec![
                    Step::HearEnd,
                    say("later"),
                    Step::Await("later"),
                    say("last"),
                    Step::HalfClose,
                ],
            ),
        ),
        Situation::new(
            "half open: the client goes on after the site has ended",
            and(
                &echo_client,
                vec![
                    Step::HearEnd,
                    say("later"),
                    Step::Await("later"),
                    say("last"),
                    Step::HalfClose,
                ],
            ),
            and(
                &echo_site,
                vec![Step::HalfClose, hear("later"), Step::Mark("later"), Step::HearEnd],
            ),
        ),
        Situation::new(
            "cut by the site",
            and(&echo_client, vec![Step::HearEnd]),
            and(&echo_site, vec![Step::Cut]),
        ),
        Situation::new(
            "cut by the client",
            and(&echo_client, vec![Step::Cut, Step::Await("ended")]),
            and(&echo_site, vec![Step::HearEnd, Step::Mark("ended")]),
        ),
        Situation::new(
            "reset by the site",
            and(&echo_client, vec![Step::HearEnd]),
            and(&echo_site, vec![Step::Reset]),
        ),
        Situation::new(
            "reset by the client",
            and(&echo_client, vec![Step::Reset, Step::Await("ended")]),
            and(&echo_site, vec![Step::HearEnd, Step::Mark("ended")]),
        ),
        Situation::new(
            "the first bytes in the segment of the 101",
            and(&open_client, vec![hear("first"), Step::Leave]),
            vec![Step::HearMessages(1), say(format!("{switched}first"))],
        ),
        Situation::new(
            "the first bytes of the client before the 101",
            vec![say(format!("{ask}early")), hear_head(), hear("late")],
            vec![hear_head(), say(switched), hear("early"), say("late")],
        ),
        Situation::new(
            "another protocol",
            vec![say(other), hear_head(), say("ping"), hear("pong")],
            vec![
                Step::HearMessages(1),
                say("HTTP/1.1 101 Over to you\r\nConnection: upgrade\r\nupgrade: custom/2\r\nX-A: 1\r\n\r\n"),
                hear("ping"),
                say("pong"),
            ],
        ),
        Situation::new(
            "refused, and the connection goes on",
            vec![say(ask), Step::HearMessages(1), say(GET), Step::HearMessages(2)],
            vec![
                Step::HearMessages(1),
                say(
                    "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno",
                ),
                Step::HearMessages(2),
                say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            ],
        ),
    ];
    let rows = rows.into_iter().flat_map(|row| row.each(&ALL));
    assert_as_direct(rows.collect()).await;
}
