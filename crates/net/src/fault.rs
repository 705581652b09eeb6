//! What the operating system reports, in words. Agents and operators read these; Rust's own texts carry numbers.

use std::io::{self, ErrorKind};

/// Why a socket failed, as the end of a sentence.
pub(crate) fn in_words(error: &io::Error) -> String {
    let words = match error.kind() {
        ErrorKind::ConnectionRefused => "the connection was refused",
        ErrorKind::ConnectionReset => "the connection was reset",
        ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe | ErrorKind::NotConnected => "the connection was closed",
        ErrorKind::UnexpectedEof => "the connection was closed in the middle",
        ErrorKind::HostUnreachable => "there is no route to the host",
        ErrorKind::NetworkUnreachable => "the network is unreachable",
        ErrorKind::NetworkDown => "the network is down",
        ErrorKind::TimedOut => "there was no answer",
        ErrorKind::AddrNotAvailable => "this machine has no free address or port for the connection",
        ErrorKind::PermissionDenied => "a firewall on this machine forbids the connection",
        ErrorKind::OutOfMemory => "this machine has no memory left",
        _ => return plain(&error.to_string()),
    };
    words.to_owned()
}

/// Without the number that Rust puts behind it.
fn plain(text: &str) -> String {
    let text = text.split(" (os error").next().unwrap_or(text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "the cause is unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_shows_a_number() {
        for number in 1..=133 {
            let text = in_words(&io::Error::from_raw_os_error(number));
            assert!(!text.is_empty() && !text.contains("os error"), "{number}: {text}");
            assert!(!text.contains('{') && !text.contains("Kind"), "{number}: {text}");
        }
        assert_eq!(
            in_words(&io::Error::from(ErrorKind::HostUnreachable)),
            "there is no route to the host"
        );
        assert_eq!(
            in_words(&io::Error::from_raw_os_error(24)),
            "too many open files",
            "EMFILE has no kind of its own"
        );
    }
}
