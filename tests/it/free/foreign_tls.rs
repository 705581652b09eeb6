//! Sites that run OpenSSL, with settings that bursar's TLS cannot do: the agent reads what is wrong and whose fault it is,
//! and `passthrough` lets it through.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, setup};
use crate::support::wire::soon;

/// `openssl s_server`, which answers each request with a page about the connection.
struct Site {
    child: Child,
    address: SocketAddr,
}

impl Site {
    /// With `cert.pem` and `key.pem` in `folder`.
    fn start(folder: &Path, options: &str) -> Self {
        let mut child = Command::new("openssl")
            .args([
                "s_server",
                "-accept",
                "127.0.0.1:0",
                "-cert",
                "cert.pem",
                "-key",
                "key.pem",
                "-www",
            ])
            .args(options.split_whitespace())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.join("s_server.log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                let log = std::fs::read_to_string(folder.join("s_server.log")).unwrap();
                panic!("s_server {options} did not start: {log}");
            };
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.parse().unwrap();
            }
        };
        // It goes on talking.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(folder: &Path, command: &str) {
    let ran = Command::new("openssl")
        .args(command.split_whitespace())
        .current_dir(folder)
        .output();
    let ran = ran.unwrap();
    assert!(
        ran.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// A CA in `ca.pem`, and in `cert.pem` what `extensions` and `sign` make of a certificate for localhost.
fn certificates(folder: &Path, extensions: &str, sign: &str) {
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=testca -days 30 -addext basicConstraints=critical,CA:TRUE",
    );
    openssl(
        folder,
        "req -new -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=localhost",
    );
    std::fs::write(folder.join("extensions"), extensions).unwrap();
    openssl(
        folder,
        &format!("x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -out cert.pem -days 20 -extfile extensions {sign}"),
    );
}

const NAMED: &str = "subjectAltName=DNS:localhost\n";

/// bursar that trusts `ca.pem` in `folder`.
fn trusting(folder: &Path, config: &str) -> Bursar {
    let ca = std::fs::read_to_string(folder.join("ca.pem")).unwrap();
    setup().trust(&ca).config(config).start()
}

async fn status_and_detail(bursar: &Bursar, site: SocketAddr) -> (u16, String) {
    let page = soon(Agent::of(bursar).get(site, "/")).await;
    let detail = match page.status.as_u16() {
        200 => String::from_utf8_lossy(&page.body).into_owned(),
        _ => page.json()["detail"].as_str().unwrap().to_owned(),
    };
    (page.status.as_u16(), detail)
}

#[tokio::test]
async fn what_the_site_lacks_is_said_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificates(folder, NAMED, "");
    let bursar = trusting(folder, "");
    for (options, said) in [
        ("-tls1 -cipher ALL:@SECLEVEL=0", "speaks only TLS 1.0, TLS 1.1"),
        ("-tls1_1 -cipher ALL:@SECLEVEL=0", "speaks only TLS 1.0, TLS 1.1"),
        (
            "-tls1_2 -cipher ECDHE-RSA-AES128-SHA",
            "no cipher suite or key exchange in common",
        ),
        (
            "-tls1_2 -cipher AES128-GCM-SHA256",
            "no cipher suite or key exchange in common",
        ),
        (
            "-tls1_2 -Verify 1 -verify_return_error -CAfile ca.pem",
            "asked for a client certificate",
        ),
        (
            "-tls1_3 -Verify 1 -verify_return_error -CAfile ca.pem",
            "asked for a client certificate",
        ),
    ] {
        let site = Site::start(folder, options);
        let (status, detail) = status_and_detail(&bursar, site.address).await;
        assert_eq!(status, 502, "{options}: {detail}");
        assert!(
            detail.contains(said) && detail.contains("[[upstream.site]]"),
            "{options}: {detail}"
        );
        assert!(detail.contains("Nothing was paid."), "{detail}");
    }
    // A site that asks for a certificate and does without one is served.
    for options in ["-tls1_2 -verify 1 -CAfile ca.pem", "-tls1_3 -verify 1 -CAfile ca.pem"] {
        let site = Site::start(folder, options);
        let (status, page) = status_and_detail(&bursar, site.address).await;
        assert_eq!(status, 200, "{options}: {page}");
    }
}

#[tokio::test]
async fn certificates_that_are_not_accepted_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let weak = "-cipher ALL:@SECLEVEL=0";
    for (extensions, sign, options, said) in [
        ("basicConstraints=CA:FALSE\n", "", "", "names no host in subjectAltName"),
        (
            "subjectAltName=DNS:localhost\n",
            "-sha1",
            weak,
            "an algorithm that is not accepted any more, such as SHA-1",
        ),
        (
            "subjectAltName=DNS:localhost\nextendedKeyUsage=clientAuth\n",
            "",
            "",
            "not issued for servers",
        ),
    ] {
        certificates(folder, extensions, sign);
        let bursar = trusting(folder, "");
        let site = Site::start(folder, options);
        let (status, detail) = status_and_detail(&bursar, site.address).await;
        assert_eq!(status, 502, "{detail}");
        assert!(detail.contains(said), "{detail}");
    }
}

/// What a private site commonly has: `openssl req -x509`, which makes a CA's certificate.
#[tokio::test]
async fn a_self_signed_site_is_accepted_once_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (extensions, version) in [("-addext subjectAltName=DNS:localhost", "-tls1_2"), ("", "-tls1_3")] {
        openssl(
            folder,
            format!("req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=localhost -days 30 {extensions}")
                .trim_end(),
        );
        let site = Site::start(folder, version);
        let (status, detail) = status_and_detail(&setup().start(), site.address).await;
        assert_eq!(status, 502, "{detail}");
        assert!(
            detail.contains("this very certificate") && detail.contains("`extra_ca`"),
            "{detail}"
        );

        std::fs::copy(folder.join("cert.pem"), folder.join("ca.pem")).unwrap();
        let (status, page) = status_and_detail(&trusting(folder, ""), site.address).await;
        // One that names no host is accepted for the host of its section only.
        assert_eq!(status, if extensions.is_empty() { 502 } else { 200 }, "{page}");
        let pem = std::fs::read_to_string(folder.join("cert.pem")).unwrap();
        let section = "[[upstream.site]]\nhost = \"localhost\"\nca = \"site.pem\"\n";
        let bursar = setup().file("site.pem", &pem, 0o644).config(section).start();
        let (status, page) = status_and_detail(&bursar, site.address).await;
        assert_eq!(status, 200, "{page}");
    }
}

/// Old clients and old sites go on as if no proxy were there.
#[tokio::test]
async fn old_tls_passes_through_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_owned();
    certificates(&folder, NAMED, "");
    let bursar = trusting(&folder, "[[upstream.site]]\nhost = \"localhost\"\npassthrough = true\n");
    for (version, cipher, shown) in [
        ("-tls1", "ALL:@SECLEVEL=0", "TLSv1"),
        ("-tls1_1", "ALL:@SECLEVEL=0", "TLSv1.1"),
        ("-tls1_2", "AES128-SHA", "TLSv1.2"),
    ] {
        let site = Site::start(&folder, &format!("{version} -cipher {cipher}"));
        let (user, token) = ("research", bursar.home.token.clone());
        let mut client = Command::new("openssl");
        client
            .args(["s_client", "-connect", &format!("localhost:{}", site.address.port())])
            .args([
                "-proxy",
                &bursar.address.to_string(),
                "-proxy_user",
                user,
                "-proxy_pass",
                &format!("pass:{token}"),
            ])
            .args([
                version,
                "-cipher",
                cipher,
                "-servername",
                "localhost",
                "-CAfile",
                "ca.pem",
                "-verify_return_error",
            ])
            .current_dir(&folder)
            .stdin(Stdio::null());
        let ended = tokio::task::spawn_blocking(move || client.output().unwrap())
            .await
            .unwrap();
        let (said, log) = (
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(&ended.stderr),
        );
        assert!(said.contains("Verify return code: 0 (ok)"), "{version}: {said}{log}");
        let protocol = said.lines().find_map(|line| line.trim().strip_prefix("Protocol"));
        assert_eq!(
            protocol.map(|line| line.trim_start_matches([' ', ':'])),
            Some(shown),
            "{said}"
        );
    }
}
