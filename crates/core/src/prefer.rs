//! How long an agent is willing to wait for an answer: `Prefer: wait=N` and `Prefer: respond-async` (RFC 7240). It
//! matters while a person decides (approvals §9). Sites get the header unchanged, like any other.

use std::time::Duration;

use http::HeaderMap;

/// No request is held longer than this.
const LONGEST: Duration = Duration::from_secs(300);

/// The wait that the agent asked for, or `usual` if it asked for none. With both preferences, the agent is asked to
/// come back only once that time has passed (RFC 7240 §4.3).
pub fn wait(headers: &HeaderMap, usual: Duration) -> Duration {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(',')).map(preference);
    let (mut wait, mut at_once) = (None, false);
    for (name, value) in preferences.by_ref() {
        if name.eq_ignore_ascii_case("respond-async") {
            at_once = true;
        } else if name.eq_ignore_ascii_case("wait") {
            // The first one counts (§2); a value that is not a number is ignored.
            wait = wait.or_else(|| value?.parse::<u32>().ok());
        }
    }
    match (wait, at_once) {
        (Some(seconds), _) => Duration::from_secs(seconds.into()).min(LONGEST),
        (None, true) => Duration::ZERO,
        (None, false) => usual,
    }
}

/// The name and value of one preference, without its parameters.
fn preference(text: &str) -> (&str, Option<&str>) {
    let word = text.split(';').next().unwrap_or_default();
    match word.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
        None => (word.trim(), None),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

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

    /// One preference: its text, the wait that it asks for, and whether it asks for an answer at once.
    fn preferences() -> impl Strategy<Value = (String, Option<u64>, bool)> {
        prop_oneof![
            (0_u32..1000, any::<bool>()).prop_map(|(seconds, quoted)| {
                let value = if quoted {
                    format!("\"{seconds}\"")
                } else {
                    seconds.to_string()
                };
                (format!("Wait={value}"), Some(seconds.into()), false)
            }),
            Just(("respond-async".to_owned(), None, true)),
            "[a-z]{1,8}(=[a-z]{0,4})?(; ?wait=[0-9]{1,3})?".prop_filter_map("another name", |text| {
                let is_ours = text.starts_with("wait") || text.starts_with("respond-async");
                (!is_ours).then_some((text, None, false))
            }),
            Just(("wait=soon".to_owned(), None, false)),
        ]
    }

    proptest! {
        /// Against a list of what was asked for, however it is divided into lines.
        #[test]
        fn the_first_wait_counts_in_any_line(asked in proptest::collection::vec((preferences(), any::<bool>()), 0..8)) {
            let mut lines = vec![String::new()];
            for ((text, _, _), in_new_line) in &asked {
                match lines.last_mut() {
                    Some(line) if !in_new_line && !line.is_empty() => *line += &format!(" ,{text}"),
                    _ => lines.push(text.clone()),
                }
            }
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append("prefer", HeaderValue::from_str(line).unwrap());
            }
            let first = asked.iter().find_map(|((_, seconds, _), _)| *seconds);
            let at_once = asked.iter().any(|((_, _, at_once), _)| *at_once);
            let expected = match (first, at_once) {
                (Some(seconds), _) => seconds.min(300),
                (None, true) => 0,
                (None, false) => 50,
            };
            prop_assert_eq!(wait(&headers, Duration::from_secs(50)), Duration::from_secs(expected));
        }

        #[test]
        fn no_header_asks_for_more_than_the_longest(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let usual = Duration::from_secs(1234);
            let mut headers = HeaderMap::new();
            for value in lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
                headers.append("prefer", value);
            }
            let wait = wait(&headers, usual);
            prop_assert!(wait == usual || wait <= LONGEST);
        }
    }
}
