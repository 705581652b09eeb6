use std::sync::Arc;

use proptest::prelude::*;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use tokio::io::duplex;

use super::*;
use crate::tls::AlpnOffer;
use crate::tls::upstream::{Trust, UpstreamTls};

const IDLE: Duration = Duration::from_secs(600);

/// What rustls says first, as a client of `name`.
fn hello_for(name: &str, fragment: Option<usize>) -> Vec<u8> {
    let tls = UpstreamTls::new(&Trust::default(), Duration::from_secs(5)).unwrap();
    let mut config = (*tls.config(AlpnOffer::Http2ThenHttp1)).clone();
    config.max_fragment_size = fragment;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A hello of TLS 1.0, without the extensions that came later, as old clients send it.
fn old_hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 1];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    body.extend(extensions);
    let mut bytes = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    bytes.extend(body);
    bytes
}

/// `server_name` with these entries.
fn names(entries: &[(u8, &str)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in entries {
        list.extend([*kind, 0, name.len() as u8]);
        list.extend(name.as_bytes());
    }
    let mut content = vec![0, list.len() as u8];
    content.extend(list);
    let mut extension = vec![0, 0, 0, content.len() as u8];
    extension.extend(content);
    extension
}

fn extensions(all: &[Vec<u8>]) -> Vec<u8> {
    let all = all.concat();
    let mut block = vec![0, all.len() as u8];
    block.extend(all);
    block
}

async fn read(bytes: &[u8]) -> Result<Hello, HelloError> {
    hello(&mut &bytes[..]).await
}

#[tokio::test]
async fn hellos_of_all_ages_are_read() {
    for fragment in [None, Some(64), Some(200)] {
        let bytes = hello_for("api.example.com", fragment);
        let hello = read(&bytes).await.unwrap();
        assert_eq!(hello.name.as_deref(), Some("api.example.com"));
        assert_eq!(hello.bytes, bytes);
        assert_eq!(read(&hello_for("192.0.2.1", fragment)).await.unwrap().name, None);
    }
    let old = old_hello(&extensions(&[names(&[(0, "old.example")])]));
    assert_eq!(read(&old).await.unwrap().name.as_deref(), Some("old.example"));
    assert_eq!(read(&old_hello(&[])).await.unwrap().name, None);
    let ticket = vec![0, 35, 0, 0];
    assert_eq!(read(&old_hello(&extensions(&[ticket]))).await.unwrap().name, None);
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_no_hello() {
    let good = names(&[(0, "a.example")]);
    let with_more = {
        let mut bytes = old_hello(&extensions(std::slice::from_ref(&good)));
        bytes[4] += 1;
        bytes.push(0);
        bytes
    };
    for bytes in [
        old_hello(&extensions(&[good.clone(), names(&[(0, "b.example")])])),
        old_hello(&extensions(&[names(&[(0, "a.example"), (0, "b.example")])])),
        old_hello(&extensions(&[names(&[(1, "a.example")])])),
        old_hello(&extensions(&[names(&[])])),
        old_hello(&[extensions(std::slice::from_ref(&good)), vec![0]].concat()),
        with_more,
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec(),
        vec![22, 3, 1, 0, 0],
        vec![22, 3, 1, 0xff, 0xff],
        vec![22, 2, 0, 0, 1, 1],
        vec![22, 3, 1, 0, 1, 2],
        vec![22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
    ] {
        assert!(matches!(read(&bytes).await, Err(HelloError::Malformed)), "{bytes:?}");
    }
    let whole = hello_for("a.example", None);
    assert!(matches!(read(&whole[..whole.len() - 1]).await, Err(HelloError::Ended)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However it is cut, and whatever byte of it is changed: what is read is what rustls reads, if rustls reads anything.
    #[test]
    fn a_hello_is_read_as_rustls_reads_it(
        name in "[a-z]{1,12}\\.example", fragment in 64usize..600, cut in 1usize..2000,
        at in proptest::option::of((5usize..400, any::<u8>())),
    ) {
        let mut bytes = hello_for(&name, Some(fragment));
        if let Some((at, byte)) = at && let Some(hit) = bytes.get_mut(at) {
            *hit = byte;
        }
        let mut reader = HelloReader::default();
        let cut = cut.min(bytes.len());
        reader.bytes.extend_from_slice(&bytes[..cut]);
        let first = reader.read();
        let read = match first {
            Ok(None) => {
                reader.bytes.extend_from_slice(&bytes[cut..]);
                reader.read()
            }
            read => read,
        };
        let mut acceptor = Acceptor::default();
        let mut unread = &bytes[..];
        while acceptor.read_tls(&mut unread).is_ok_and(|read| read > 0) {}
        if let Ok(Some(accepted)) = acceptor.accept()
            && let Ok(Some(hello)) = read
        {
            let theirs = accepted.client_hello().server_name().map(str::to_owned);
            let ours = hello.name.map(|name| name.to_ascii_lowercase());
            // rustls takes an address in the place of a name for none.
            prop_assert!(ours == theirs || theirs.is_none());
        } else if at.is_none() {
            prop_assert!(false, "a good hello was not read");
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut reader = HelloReader::default();
        reader.bytes.extend_from_slice(&bytes);
        let _ = reader.read();
        let mut reader = HelloReader::default();
        reader.bytes.extend_from_slice(&old_hello(&bytes[..bytes.len().min(200)]));
        let _ = reader.read();
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_in_one_direction_leaves_the_other_one_open() {
    let ((mut agent, near), (far, mut site)) = (duplex(64), duplex(64));
    let joined = tokio::spawn(join(near, far, IDLE));
    agent.write_all(b"request").await.unwrap();
    agent.shutdown().await.unwrap();
    let mut asked = String::new();
    site.read_to_string(&mut asked).await.unwrap();
    assert_eq!(asked, "request");
    site.write_all(b"answer").await.unwrap();
    drop(site);
    let mut answered = String::new();
    agent.read_to_string(&mut answered).await.unwrap();
    assert_eq!(answered, "answer");
    let passed = joined.await.unwrap().unwrap();
    assert_eq!((passed.to_site, passed.to_agent), (7, 6));
}

#[tokio::test(start_paused = true)]
async fn only_silence_in_both_directions_ends_it() {
    let ((mut agent, near), (far, mut site)) = (duplex(64), duplex(64));
    let joined = tokio::spawn(join(near, far, IDLE));
    let began = Instant::now();
    // One direction moves, the other never does.
    let mut read = [0; 1];
    for _ in 0..10 {
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
        site.write_all(b"x").await.unwrap();
        agent.read_exact(&mut read).await.unwrap();
    }
    let last = Instant::now();
    let error = joined.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(began.elapsed() > IDLE * 9);
    assert!(last.elapsed() >= IDLE && last.elapsed() < IDLE + Duration::from_secs(2));
}

#[tokio::test]
async fn a_refusal_is_an_alert_that_clients_understand() {
    for (alert, expected) in [
        (Alert::AccessDenied, rustls::AlertDescription::AccessDenied),
        (Alert::UnrecognizedName, rustls::AlertDescription::UnrecognisedName),
    ] {
        let tls = UpstreamTls::new(&Trust::default(), Duration::from_secs(5)).unwrap();
        let name = ServerName::try_from("a.example").unwrap();
        let mut client = ClientConnection::new(tls.config(AlpnOffer::Nothing), name).unwrap();
        let mut sent = Vec::new();
        refuse(&mut sent, alert).await.unwrap();
        client.read_tls(&mut &sent[..]).unwrap();
        let error = client.process_new_packets().unwrap_err();
        assert_eq!(error, rustls::Error::AlertReceived(expected));
    }
}
