//! `Via` (RFC 9110 §7.6.3), only with `[proxy] via = true`: some sites stop compressing when they see one (R32).
//! The name in it is random per process, so that only a request that really came back counts as a loop.

use std::fmt::Write;

use http::header::{HeaderValue, VIA};
use http::{HeaderMap, Version};

use bursar_core::clock;

pub struct Via {
    name: String,
}

impl Via {
    /// Fails when the operating system has no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut name = "bursar-".to_owned();
        for byte in clock::random::<8>()? {
            let _ = write!(name, "{byte:02x}");
        }
        Ok(Self { name })
    }

    /// Whether a request carries our own name. Comments, which may follow a name, are ignored.
    pub fn has_been_here(&self, headers: &HeaderMap) -> bool {
        let lines = headers.get_all(VIA).iter().filter_map(|line| line.to_str().ok());
        lines
            .flat_map(|line| line.split(','))
            .filter_map(|member| member.split_ascii_whitespace().nth(1))
            .any(|name| name.eq_ignore_ascii_case(&self.name))
    }

    /// Appends our own entry; `version` is the HTTP version in which the request arrived.
    pub fn add(&self, headers: &mut HeaderMap, version: Version) {
        let version = match version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        };
        if let Ok(member) = HeaderValue::try_from(format!("{version} {}", self.name)) {
            headers.append(VIA, member);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_our_own_name_is_a_loop() {
        let (via, other) = (Via::random().unwrap(), Via::random().unwrap());
        let mut headers = HeaderMap::new();
        headers.append(VIA, HeaderValue::from_static("1.0 fred, 1.1 p.example.net (bursar-0)"));
        other.add(&mut headers, Version::HTTP_11);
        assert!(!via.has_been_here(&headers));
        via.add(&mut headers, Version::HTTP_2);
        assert!(via.has_been_here(&headers));
        assert_eq!(headers.get_all(VIA).iter().count(), 3);
    }

    #[test]
    fn a_name_is_found_in_any_line_and_case() {
        let via = Via::random().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(VIA, HeaderValue::from_static("2 a"));
        let line = format!("1.1 x,HTTP/1.1 {} (y)", via.name.to_uppercase());
        headers.append(VIA, HeaderValue::try_from(line).unwrap());
        assert!(via.has_been_here(&headers));
    }

    proptest! {
        /// Between any other entries, in one line or several, with a comment or without.
        #[test]
        fn our_entry_is_found_wherever_it_stands(
            before in proptest::collection::vec("[0-9.]{1,3} [a-z0-9.:-]{1,12}( \\([a-z, ]{0,8}\\))?", 0..4),
            after in proptest::collection::vec("[0-9.]{1,3} [a-z0-9.:-]{1,12}", 0..4),
            comment in any::<bool>(),
            joined in any::<bool>(),
        ) {
            let via = Via::random().unwrap();
            let ours = format!("HTTP/1.1  {}{}", via.name, if comment { " (us)" } else { "" });
            let all: Vec<String> = before.iter().cloned().chain([ours]).chain(after.iter().cloned()).collect();
            let lines = if joined { vec![all.join(",")] } else { all };
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(VIA, HeaderValue::from_str(line).unwrap());
            }
            prop_assert!(via.has_been_here(&headers));
            prop_assert!(!Via::random().unwrap().has_been_here(&headers));
        }

        #[test]
        fn no_bytes_are_taken_for_us(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let mut headers = HeaderMap::new();
            for value in lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
                headers.append(VIA, value);
            }
            prop_assert!(!Via::random().unwrap().has_been_here(&headers));
        }
    }
}
