//! Networks as they are: a corporate proxy in between, long silences, tunnels that are opened early.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Setup, eventually, setup};
use crate::support::corporate::{Corporate, Kind, PASSWORD, USER};
use crate::support::origin::{Origin, Seen, Speaks, answer, certificate};
use crate::support::seller;
use crate::support::wire::{Message, Wire};

/// A name that no resolver knows (RFC 6761 §6.4): only the corporate proxy can lead there.
const SHOP: &str = "shop.invalid";

async fn shop(speaks: Speaks) -> Origin {
    let sell = |request: Seen| async move {
        if request.is_paid() {
            return seller::sold("goods");
        }
        seller::v2(&seller::challenge("/", &[seller::requirement("10000")]))
    };
    Origin::start(speaks, certificate(&[SHOP], |_| {}), sell).await
}

/// A site that answers with the path, over TLS or without.
async fn site(speaks: Speaks) -> Origin {
    let echo = |request: Seen| async move { answer(200, &[], request.target) };
    Origin::start(speaks, certificate(&[SHOP], |_| {}), echo).await
}

fn behind(scheme: &str, proxy: SocketAddr) -> Setup {
    setup().upstream(&format!("proxy = \"{scheme}://{proxy}\"\n"))
}

fn with_login(setup: Setup) -> Setup {
    let setup = setup.upstream(&format!(
        "proxy_user = \"{USER}\"\nproxy_password = \"file:proxy.password\"\n"
    ));
    setup.file("proxy.password", PASSWORD, 0o600)
}

/// GET in a tunnel to `name`, at the origin's port.
async fn get(bursar: &Bursar, name: &str, port: u16, path: &str) -> Message {
    let agent = Agent::of(bursar);
    let tunnel = agent.tunnel(&format!("{name}:{port}")).await;
    let mut wire = Wire::new(agent.tls_over(tunnel, name, &["http/1.1"]).await.unwrap());
    wire.say(format!("GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n"))
        .await;
    wire.answer().await.unwrap()
}

#[tokio::test]
async fn a_purchase_goes_through_the_corporate_proxy() {
    let shop = shop(Speaks::H1AndH2).await;
    let corporate = Corporate::start(Kind::ConnectWithLogin).await;
    let bursar = with_login(behind("http", corporate.address))
        .trust(&shop.ca_pem)
        .start();
    let port = shop.address.port();
    let page = get(&bursar, SHOP, port, "/").await;
    assert_eq!((page.status(), page.text().as_str()), (200, "goods"));
    // Asked for once, by name; both requests went through that connection.
    assert_eq!(corporate.asked(), [format!("{SHOP}:{port}")]);
    assert_eq!(shop.payments().len(), 1);
    assert_eq!(bursar.states(), ["settled"]);
    for request in shop.seen() {
        assert!(!request.headers.contains_key("proxy-authorization"));
        // The only way to notice a loop through another proxy.
        let via = request.headers["via"].to_str().unwrap();
        assert!(via.contains("bursar-"), "{via}");
    }
}

#[tokio::test]
async fn plain_sites_socks_and_a_proxy_with_tls_work_as_well() {
    let (plain, secure) = (site(Speaks::Plain).await, site(Speaks::H1AndH2).await);
    for (scheme, kind) in [
        ("http", Kind::ConnectWithLogin),
        ("https", Kind::SecureConnectWithLogin),
        ("socks5h", Kind::SocksWithLogin),
    ] {
        let corporate = Corporate::start(kind).await;
        let trusted = format!("{}{}", secure.ca_pem, corporate.ca_pem);
        let bursar = with_login(behind(scheme, corporate.address)).trust(&trusted).start();
        let page = get(&bursar, SHOP, secure.address.port(), "/secure").await;
        assert_eq!((page.status(), page.text().as_str()), (200, "/secure"), "{scheme}");
        let authority = format!("{SHOP}:{}", plain.address.port());
        let page = Agent::of(&bursar).get_plain(&format!("http://{authority}/plain")).await;
        assert_eq!(
            (page.status.as_u16(), &page.body[..]),
            (200, &b"/plain"[..]),
            "{scheme}"
        );
        assert_eq!(
            corporate.asked(),
            [format!("{SHOP}:{}", secure.address.port()), authority]
        );
    }
}

#[tokio::test]
async fn what_the_corporate_proxy_refuses_is_said_in_its_name_and_costs_nothing() {
    let shop = shop(Speaks::H1AndH2).await;
    for (kind, words) in [
        (Kind::ConnectWithLogin, "does not accept bursar's credentials"),
        (Kind::Refusing(403), "refused to connect to the site, with status 403"),
        (Kind::Refusing(502), "refused to connect to the site, with status 502"),
    ] {
        let corporate = Corporate::start(kind).await;
        let bursar = behind("http", corporate.address).trust(&shop.ca_pem).start();
        let page = get(&bursar, SHOP, shop.address.port(), "/").await;
        assert_eq!((page.status(), page.problem().as_str()), (502, "upstream-unreachable"));
        let problem: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        let named = format!("The upstream proxy {}", corporate.address);
        assert!(detail.starts_with(&named) && detail.contains(words), "{detail}");
        assert!(detail.ends_with("Nothing was paid."), "{detail}");
        assert_eq!(bursar.payments().len(), 0);
    }
    assert_eq!(shop.seen().len(), 0);
}

/// It would be asked for what only means something here: addresses inside, and names of this machine.
#[tokio::test]
async fn behind_a_corporate_proxy_addresses_inside_stay_closed() {
    let inside = site(Speaks::Plain).await;
    let corporate = Corporate::start(Kind::Connect).await;
    let bursar = behind("http", corporate.address)
        .upstream("allow_private = [\"127.0.0.9/32\"]\nno_proxy = [\".spared.invalid\"]\n")
        .start();
    let port = inside.address.port();
    for (host, status, code) in [
        ("127.0.0.1", 403, "destination-not-allowed"),
        ("localhost", 403, "destination-not-allowed"),
        ("10.0.0.1", 403, "destination-not-allowed"),
        ("169.254.169.254", 403, "destination-not-allowed"),
        ("[::1]", 403, "destination-not-allowed"),
        ("[64:ff9b::7f00:1]", 403, "destination-not-allowed"),
        ("2130706433", 403, "destination-not-allowed"),
        // Spared, so it is this machine that must find it.
        ("www.spared.invalid", 502, "upstream-name"),
    ] {
        let authority = format!("{host}:{port}");
        let mut wire = Wire::new(Agent::of(&bursar).tunnel(&authority).await);
        wire.say(format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
        let page = wire.answer().await.unwrap();
        assert_eq!((page.status(), page.problem().as_str()), (status, code), "{host}");
    }
    assert_eq!(corporate.asked(), [""; 0]);
    assert_eq!(inside.seen().len(), 0);
    let page = Agent::of(&bursar).get_plain(&format!("http://{SHOP}:{port}/x")).await;
    assert_eq!(page.status, 200, "the others go through it");
}

/// In such a network nodes and Stripe are outside as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursars_own_services_are_reached_through_the_corporate_proxy() {
    let balance = |request: Seen| async move {
        let question: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let result = match question["method"].as_str() {
            // Base Sepolia.
            Some("eth_chainId") => "0x14a34".to_owned(),
            // One dollar of everything.
            _ => format!("0x{:064x}", 1_000_000),
        };
        let said = serde_json::json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
        answer(200, &[("content-type", "application/json")], said.to_string())
    };
    let node = Origin::start(Speaks::Plain, certificate(&["localhost"], |_| {}), balance).await;
    let corporate = Corporate::start(Kind::ConnectWithLogin).await;
    let authority = format!("rpc.invalid:{}", node.address.port());
    let network = format!("[networks.\"eip155:84532\"]\nrpc = [\"http://{authority}\"]\n");
    let home = with_login(behind("http", corporate.address)).config(&network).home();
    let shown = tokio::task::block_in_place(|| home.run(&["wallet", "show", "--json"]));
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&shown.stderr)
    );
    assert!(text.contains("\"1000000\""), "{text}");
    assert!(!node.seen().is_empty() && corporate.asked().iter().all(|asked| *asked == authority));
    assert!(
        node.seen()
            .iter()
            .all(|request| !request.headers.contains_key("proxy-authorization"))
    );
}

#[tokio::test]
async fn a_corporate_proxy_that_is_bursar_itself_is_refused_at_the_start() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let home = behind("http", SocketAddr::from(([127, 0, 0, 1], port))).home();
    let path = home.path().join("bursar.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{port}\"")),
    )
    .unwrap();
    let Err((home, _)) = home.try_serve_by(std::process::Command::new(crate::support::bursar::bin())) else {
        panic!("it has started");
    };
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    assert!(log.contains("upstream.proxy leads to bursar itself"), "{log}");
}

/// The kernel's own list of this machine's TCP connections: whether the one between these ports has a keep-alive timer.
/// Its sixth column is `02:` and the time to the next probe.
fn is_kept_alive(local: u16, remote: u16) -> Option<bool> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let mut rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| {
        let is_it = |from: u16, to: u16| port(row[1]) == Some(from) && port(row[2]) == Some(to);
        row[3] == ESTABLISHED && (is_it(local, remote) || local == 0 && port(row[2]) == Some(remote))
    })?;
    // Unsent data has the timer until it is acknowledged.
    let (kind, until) = row[5].split_once(':')?;
    let hundredths = u64::from_str_radix(until, 16).ok()?;
    Some(kind == "02" && hundredths <= 60 * 100)
}

#[tokio::test]
async fn both_sides_of_a_silent_exchange_are_kept_alive() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let stream = Agent::of(&bursar)
        .tls(origin.address, "localhost", &["http/1.1"])
        .await
        .unwrap();
    let agent = stream.get_ref().0.local_addr().unwrap().port();
    let mut wire = Wire::new(stream);
    wire.say(format!(
        "GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n",
        origin.address.port()
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().status(), 200);
    // The agent's socket on bursar's side, and bursar's to the site, whose port nobody else connects to.
    for (what, local, remote) in [
        ("agent", bursar.address.port(), agent),
        ("site", 0, origin.address.port()),
    ] {
        eventually(what, || is_kept_alive(local, remote).filter(|kept| *kept)).await;
    }
}

/// Connection pools open tunnels before they need them: the bound for a hello begins with its first byte.
#[tokio::test]
async fn a_tunnel_may_be_opened_long_before_it_is_used() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let bursar = setup()
        .trust(&origin.ca_pem)
        .config("[timeouts]\nhello_s = 1\nhead_s = 1\n")
        .start();
    let agent = Agent::of(&bursar);
    let tunnel = agent.tunnel(&format!("localhost:{}", origin.address.port())).await;
    let begun: TcpStream = agent.tunnel(&format!("localhost:{}", origin.address.port())).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let mut wire = Wire::new(agent.tls_over(tunnel, "localhost", &["http/1.1"]).await.unwrap());
    wire.say(format!(
        "GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n",
        origin.address.port()
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().status(), 200);
    // Once begun, it has its bound.
    let mut wire = Wire::new(begun);
    wire.say(b"\x16\x03\x01").await;
    assert_eq!(wire.rest().await, b"");
}
