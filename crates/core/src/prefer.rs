//! How long an agent wants to wait for an answer: `Prefer: wait=N` and `Prefer: respond-async` (RFC 7240). It is asked about while a
//! person decides (approvals §9); sites get the field as it came, like any other.

use std::time::Duration;

use http::HeaderMap;

/// Longer than that no request is held.
const LONGEST: Duration = Duration::from_secs(300);

/// The wait that was asked for; `usual` without a word about it. With both words the agent wants to be told to come back only
/// after that long (RFC 7240 §4.3).
pub fn wait(headers: &HeaderMap, usual: Duration) -> Duration {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(',')).map(preference);
    let (mut wait, mut at_once) = (None, false);
    for (name, value) in preferences.by_ref() {
        if name.eq_ignore_ascii_case("respond-async") {
            at_once = true;
        } else if name.eq_ignore_ascii_case("wait") {
            // The first counts (§2); what is no number is as if it was not there.
            wait = wait.or_else(|| value?.parse::<u32>().ok());
        }
    }
    match (wait, at_once) {
        (Some(seconds), _) => Duration::from_secs(seconds.into()).min(LONGEST),
        (None, true) => Duration::ZERO,
        (None, false) => usual,
    }
}

/// Name and value of one preference, its parameters aside.
fn preference(text: &str) -> (&str, Option<&str>) {
    let word = text.split(';').next().unwrap_or_default();
    match word.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
        None => (word.trim(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_what_the_agent_asks_for() {
        const USUAL: u64 = 50;
        for (fields, seconds) in [
            (&[][..], USUAL),
            (&["respond-async"][..], 0),
            (&["wait=10"], 10),
            (&["Wait = 10"], 10),
            (&["wait=\"10\""], 10),
            (&["respond-async, wait=10"], 10),
            (&["wait=10", "respond-async"], 10),
            (&["return=representation; wait=3, handling=lenient"], USUAL),
            (&["return=minimal, RESPOND-ASYNC;x=1"], 0),
            (&["wait=5, wait=9"], 5),
            (&["wait=x, wait=9"], 9),
            (&["wait=-1"], USUAL),
            (&["wait"], USUAL),
            (&["wait=301"], 300),
            (&["wait=99999999999"], USUAL),
            (&["wait=0"], 0),
            (&["\u{e9}"], USUAL),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append("prefer", field.as_bytes().try_into().unwrap());
            }
            let usual = Duration::from_secs(USUAL);
            assert_eq!(wait(&headers, usual), Duration::from_secs(seconds), "{fields:?}");
        }
    }
}
