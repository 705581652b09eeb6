use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::tls::AlpnOffer;
use crate::tls::upstream::{Trust, UpstreamTls};

fn login() -> ProxyLogin {
    ProxyLogin::new("user".to_owned(), SecretString::from("pass")).unwrap()
}

fn proxy(scheme: &str, port: u16, login: Option<ProxyLogin>) -> CorporateProxy {
    let tls = UpstreamTls::new(&Trust::default(), Duration::from_secs(5)).unwrap();
    let address = ProxyAddress::parse(&format!("{scheme}://127.0.0.1:{port}")).unwrap();
    CorporateProxy::new(address, login, NoProxy::default(), tls.config(AlpnOffer::Http1))
}

fn shop() -> Host {
    Host::parse("shop.example").unwrap()
}

/// Reads a head, gives this answer, and then sends back what it gets. Returns the head.
async fn speaking_http(answer: &'static str) -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte).await {
            stream.write_all(&byte).await.unwrap();
        }
        String::from_utf8(head).unwrap()
    });
    (port, task)
}

async fn passes(mut stream: Stream) {
    stream.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping");
}

#[tokio::test]
async fn a_site_is_asked_for_by_name_with_the_credentials_beside_it() {
    let (port, task) = speaking_http("HTTP/1.1 200 Connection established\r\n\r\n").await;
    let stream = proxy("http", port, Some(login())).connect(&shop(), 443).await.unwrap();
    assert!(stream.socket().nodelay().unwrap());
    passes(stream).await;
    let head = task.await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("connect shop.example:443 http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: shop.example:443\r\n"), "{head}");
    assert!(
        head.contains("\r\nproxy-authorization: basic dxnlcjpwyxnz\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn what_the_proxy_answers_is_told_in_words() {
    for (answer, login, words) in [
        (
            "HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n",
            None,
            "of which it got none (status 407)",
        ),
        (
            "HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n",
            Some(login()),
            "bursar's credentials (status 407)",
        ),
        (
            "HTTP/1.1 403 No\r\n\r\n<html>",
            None,
            "refused to connect to the site, with status 403 Forbidden",
        ),
        ("HTTP/1.0 502 Bad\r\n\r\n", None, "with status 502 Bad Gateway"),
        ("SSH-2.0-OpenSSH_9.6\r\n", None, "broke the connection off"),
        (
            "HTTP/1.1 200 OK\r\n\r\nearly",
            None,
            "sent data before the site was asked",
        ),
    ] {
        let (port, _task) = speaking_http(answer).await;
        let fault = proxy("http", port, login)
            .connect(&shop(), 443)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            fault.starts_with(&format!("the upstream proxy 127.0.0.1:{port} ")),
            "{fault}"
        );
        assert!(fault.contains(words), "{fault}");
        assert!(!fault.contains("pass") || !fault.contains("user:"), "{fault}");
    }
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let fault = proxy("http", free, None)
        .connect(&shop(), 443)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        fault.ends_with("cannot be reached: the connection was refused"),
        "{fault}"
    );
}

/// RFC 1928 and 1929, byte for byte. `refusal` is the reply of the last step.
async fn speaking_socks(reply: u8) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 5);
        let mut methods = vec![0; usize::from(stream.read_u8().await.unwrap())];
        stream.read_exact(&mut methods).await.unwrap();
        assert!(methods.contains(&2), "{methods:?}");
        stream.write_all(&[5, 2]).await.unwrap();
        let mut login = [0; 11];
        stream.read_exact(&mut login).await.unwrap();
        assert_eq!(&login, b"\x01\x04user\x04pass");
        stream.write_all(&[1, 0]).await.unwrap();
        let mut wanted = [0; 19];
        stream.read_exact(&mut wanted).await.unwrap();
        assert_eq!(&wanted, b"\x05\x01\x00\x03\x0cshop.example\x01\xbb");
        stream.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte).await {
            stream.write_all(&byte).await.unwrap();
        }
    });
    (port, task)
}

#[tokio::test]
async fn socks_is_asked_for_the_name_too() {
    for scheme in ["socks5", "socks5h"] {
        let (port, task) = speaking_socks(0).await;
        passes(proxy(scheme, port, Some(login())).connect(&shop(), 443).await.unwrap()).await;
        task.await.unwrap();
    }
    for (reply, words) in [
        (1, "did not connect to the site: it failed"),
        (2, "its rules do not allow it"),
        (4, "the host is unknown or unreachable from there"),
        (5, "the host refused the connection"),
    ] {
        let (port, _task) = speaking_socks(reply).await;
        let fault = proxy("socks5h", port, Some(login()))
            .connect(&shop(), 443)
            .await
            .unwrap_err();
        assert!(fault.to_string().ends_with(words), "{fault}");
    }
}

#[test]
fn addresses_are_urls_without_a_login() {
    for good in [
        "http://proxy.example:3128",
        "HTTPS://proxy.example:443/",
        "socks5://10.0.0.1:1080",
        "socks5h://[2001:db8::1]:1080",
    ] {
        assert!(ProxyAddress::parse(good).is_ok(), "{good}");
    }
    for (bad, why) in [
        ("proxy.example:3128", AddressError::Scheme),
        ("ftp://proxy.example:3128", AddressError::Scheme),
        ("http://proxy.example", AddressError::Port),
        ("http://proxy.example:0", AddressError::Port),
        ("http://user:pass@proxy.example:3128", AddressError::Login),
        ("http://proxy.example:3128/path", AddressError::Path),
        ("http://pro xy:3128", AddressError::Host),
    ] {
        assert_eq!(ProxyAddress::parse(bad), Err(why), "{bad}");
    }
}

#[test]
fn a_login_fits_both_protocols_and_is_never_shown() {
    let of = |user: &str, password: &str| ProxyLogin::new(user.to_owned(), SecretString::from(password));
    assert!(of("user", &"x".repeat(255)).is_ok());
    let long = "x".repeat(256);
    for (user, password) in [
        ("", "p"),
        ("u", ""),
        ("a:b", "p"),
        ("u", "p\r\nX: y"),
        (&long, "p"),
        ("u", &long),
    ] {
        assert!(of(user, password).is_err(), "{user} {password}");
    }
    let shown = format!("{:?}", proxy("http", 3128, Some(login())));
    assert_eq!(shown, "CorporateProxy(127.0.0.1:3128)");
}
