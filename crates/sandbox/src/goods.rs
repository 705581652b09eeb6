//! What a buyer gets: small, made up, and different on every call, so that two purchases can be distinguished.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use alloy_primitives::keccak256;
use bytes::Bytes;
use http_body::{Body, Frame};
use jiff::Timestamp;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::Sleep;

use super::catalog::Good;

/// The response body.
#[derive(Clone)]
pub(crate) enum Delivery {
    Whole(Bytes),
    /// Server-sent events, each in its own frame.
    Events(Vec<Bytes>),
}

/// An error in the buyer's order; no payment is settled for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum OrderError {
    #[error("the body must be JSON with a member \"text\" of 1 to 2000 characters, not all blank")]
    NothingToTranslate,
}

/// Makes the ordered good. `serial` counts the deliveries of this sandbox.
pub(crate) fn deliver(good: Good, serial: u64, now: Timestamp, body: &[u8]) -> Result<Delivery, OrderError> {
    let mut figures = Figures::new(good, serial, now);
    let whole = match good {
        Good::Notice => json_bytes(json!({
            "open": "09:00-17:30", "zone": "Europe/Berlin", "as_of": now.to_string(), "delivery": serial,
        })),
        Good::Quote => {
            let bid = figures.between(9_000, 12_000);
            let ask = bid + figures.between(1, 40);
            json_bytes(json!({
                "symbol": "BRSR", "currency": "EUR",
                "bid": hundredths(bid), "ask": hundredths(ask),
                "as_of": now.to_string(), "delivery": serial,
            }))
        }
        Good::Report => report(&mut figures, now, serial),
        Good::Dataset => dataset(&mut figures, now),
        Good::Translation => {
            let order: Value = serde_json::from_slice(body).unwrap_or_default();
            let text = order["text"].as_str().unwrap_or_default();
            if text.trim().is_empty() || text.chars().count() > 2_000 {
                return Err(OrderError::NothingToTranslate);
            }
            json_bytes(json!({
                "source": "en", "target": "de", "text": translate(text), "delivery": serial,
            }))
        }
        Good::Commentary => return Ok(Delivery::Events(commentary(&mut figures, now, serial))),
        Good::Weather => json_bytes(json!({
            "place": "Oberlauf", "temperature_c": figures.between(2, 27),
            "wind_kmh": figures.between(0, 55), "humidity_percent": figures.between(35, 98),
            "sky": figures.pick(&["clear", "scattered clouds", "overcast", "light rain", "fog"]),
            "as_of": now.to_string(), "delivery": serial,
        })),
        Good::Joke => Bytes::from(format!("{}\n", figures.pick(&JOKES))),
    };
    Ok(Delivery::Whole(whole))
}

const JOKES: [&str; 6] = [
    "The auditor asked for a receipt. The agent asked which of the three.",
    "Our budget is balanced: half of it is missing on either side.",
    "Why did the invoice blush? It saw the statement of account.",
    "The treasurer keeps a diary. It has two columns and they must agree.",
    "An accountant counts sheep, makes a mistake, and spends the night finding it.",
    "Petty cash: the only department that never asks for approval.",
];

fn report(figures: &mut Figures, now: Timestamp, serial: u64) -> Bytes {
    let rows: Vec<Value> = ["North", "East", "South", "West", "Overseas"]
        .iter()
        .map(|region| {
            let revenue = figures.between(180_000, 920_000);
            let costs = revenue * figures.between(55, 90) / 100;
            json!({ "region": region, "revenue": revenue, "costs": costs, "margin": revenue - costs })
        })
        .collect();
    json_bytes(json!({
        "company": "Sandbank Shipping", "currency": "EUR", "period": "last quarter",
        "regions": rows, "drawn_up": now.to_string(), "delivery": serial,
    }))
}

fn dataset(figures: &mut Figures, now: Timestamp) -> Bytes {
    let mut csv = String::from("hour,station,level_cm,flow_m3s\n");
    let hour = now.as_second() / 3600 * 3600;
    for station in 1..=10u64 {
        for back in 0..24i64 {
            let at = Timestamp::from_second(hour - back * 3600).unwrap_or(now);
            let (level, flow) = (figures.between(40, 310), figures.between(3, 95));
            csv.push_str(&format!("{at},S{station:02},{level},{flow}\n"));
        }
    }
    Bytes::from(csv)
}

fn commentary(figures: &mut Figures, now: Timestamp, serial: u64) -> Vec<Bytes> {
    let mut level = figures.between(14_000, 16_000);
    let mut events: Vec<Bytes> = (1..=5)
        .map(|line| {
            let up = figures.between(0, 2) == 1;
            let step = figures.between(1, 90);
            level = if up { level + step } else { level - step };
            let data = json!({
                "line": line, "index": level,
                "text": format!("The index {} {step} points.", if up { "gains" } else { "loses" }),
            });
            Bytes::from(format!("id: {line}\ndata: {data}\n\n"))
        })
        .collect();
    let end = json!({ "as_of": now.to_string(), "delivery": serial });
    events.push(Bytes::from(format!("event: end\ndata: {end}\n\n")));
    events
}

/// Translates word by word from a small phrase book; other words stay as they are.
fn translate(text: &str) -> String {
    const PHRASE_BOOK: [(&str, &str); 24] = [
        ("the", "die"),
        ("a", "eine"),
        ("and", "und"),
        ("or", "oder"),
        ("not", "nicht"),
        ("is", "ist"),
        ("are", "sind"),
        ("we", "wir"),
        ("you", "Sie"),
        ("hello", "hallo"),
        ("world", "Welt"),
        ("good", "gut"),
        ("morning", "Morgen"),
        ("please", "bitte"),
        ("thanks", "danke"),
        ("pay", "zahlen"),
        ("paid", "bezahlt"),
        ("invoice", "Rechnung"),
        ("receipt", "Quittung"),
        ("money", "Geld"),
        ("agent", "Agent"),
        ("limit", "Grenze"),
        ("today", "heute"),
        ("tomorrow", "morgen"),
    ];
    let word = |word: &str| {
        let bare = word.trim_end_matches(|c: char| c.is_ascii_punctuation());
        let lower = bare.to_lowercase();
        PHRASE_BOOK.iter().find(|(english, _)| *english == lower).map_or_else(
            || word.to_owned(),
            |(_, german)| format!("{german}{}", &word[bare.len()..]),
        )
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn json_bytes(value: Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

fn hundredths(value: u64) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}

/// A sequence of made-up figures, reproducible for the same good, serial and time.
struct Figures {
    seed: [u8; 32],
    drawn: u64,
}

impl Figures {
    fn new(good: Good, serial: u64, now: Timestamp) -> Self {
        let seed = keccak256(format!("{good:?} {serial} {now}")).0;
        Self { seed, drawn: 0 }
    }

    /// The next figure, from `low` up to but not including `high`.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.drawn += 1;
        let draw = keccak256([self.seed.as_slice(), &self.drawn.to_be_bytes()].concat());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&draw[..8]);
        low + u64::from_be_bytes(bytes) % (high - low)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let index = self.between(0, from.len() as u64);
        usize::try_from(index)
            .ok()
            .and_then(|index| from.get(index))
            .copied()
            .unwrap_or("")
    }
}

/// A body that sends its events one by one: the first at once, each further one after a pause.
pub(crate) struct Events {
    left: std::vec::IntoIter<Bytes>,
    pause: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Events {
    pub(crate) fn new(events: Vec<Bytes>, pause: Duration) -> Self {
        Self {
            left: events.into_iter(),
            pause,
            waiting: None,
        }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(waiting) = self.waiting.as_mut() {
            std::task::ready!(waiting.as_mut().poll(cx));
        }
        let event = self.left.next();
        self.waiting = (!self.left.as_slice().is_empty()).then(|| Box::pin(tokio::time::sleep(self.pause)));
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.as_slice().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_760_000_000, 0);

    fn whole(good: Good, serial: u64, body: &[u8]) -> Bytes {
        match deliver(good, serial, NOW, body) {
            Ok(Delivery::Whole(bytes)) => bytes,
            _ => panic!("{good:?} is not delivered whole"),
        }
    }

    #[test]
    fn two_deliveries_differ() {
        for good in [Good::Notice, Good::Quote, Good::Report, Good::Dataset, Good::Weather] {
            assert_ne!(whole(good, 1, b""), whole(good, 2, b""), "{good:?}");
        }
    }

    #[test]
    fn a_translation_depends_on_what_was_sent() {
        let answer: Value = serde_json::from_slice(&whole(
            Good::Translation,
            1,
            br#"{"text":"Hello, world! Please pay BRSR."}"#,
        ))
        .unwrap();
        assert_eq!(answer["text"], "hallo, Welt! bitte zahlen BRSR.");
        for refused in [&b""[..], b"{}", b"not json", br#"{"text":" "}"#] {
            assert!(matches!(
                deliver(Good::Translation, 1, NOW, refused),
                Err(OrderError::NothingToTranslate)
            ));
        }
    }

    #[tokio::test]
    async fn events_are_separate_frames_and_the_first_comes_at_once() {
        let events = || match deliver(Good::Commentary, 1, NOW, b"") {
            Ok(Delivery::Events(events)) => events,
            _ => panic!("not a stream"),
        };
        let mut body = Events::new(events(), Duration::ZERO);
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(frames, events());
        assert!(frames.iter().all(|frame| frame.ends_with(b"\n\n")));

        let mut slow = Box::pin(Events::new(events(), Duration::from_secs(3600)));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(slow.as_mut().poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
        assert!(slow.as_mut().poll_frame(&mut cx).is_pending());
        assert!(!slow.is_end_stream());
    }
}
