use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;

use super::*;

const PATIENCE: Patience = Patience {
    resolve: Duration::from_secs(5),
    connect: Duration::from_secs(10),
};

/// Answers by name, one list per lookup; the last list is repeated.
#[derive(Default)]
struct Script {
    answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Script {
    fn of(entries: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let answers = entries.iter().map(|(name, lists)| {
            let lists = lists
                .iter()
                .map(|list| list.iter().map(|a| a.parse().unwrap()).collect());
            (name.to_string(), lists.collect())
        });
        Arc::new(Self {
            answers: Mutex::new(answers.collect()),
            asked: AtomicUsize::new(0),
        })
    }
}

impl Resolver for Script {
    fn lookup(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = match answers.get_mut(&host) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(lists) if lists.len() > 1 => Ok(lists.pop_front().unwrap()),
            Some(lists) => Ok(lists[0].clone()),
        };
        Box::pin(async move { answer })
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn dialer(script: &Arc<Script>, allow_private: &[&str]) -> Dialer {
    Dialer::new(script.clone(), nets(allow_private), Vec::new(), PATIENCE)
}

fn class_of(outcome: Result<Checked, DialError>) -> AddressClass {
    match outcome {
        Err(DialError::Guard { class, .. }) => class,
        other => panic!("not refused by the guard: {other:?}"),
    }
}

#[tokio::test]
async fn one_bad_address_refuses_the_name() {
    let script = Script::of(&[
        ("good.example", &[&["8.8.8.8", "2606:4700::1111", "8.8.8.8"]]),
        ("mixed.example", &[&["8.8.8.8", "10.0.0.1"]]),
        ("mapped.example", &[&["::ffff:127.0.0.1"]]),
        ("empty.example", &[&[]]),
    ]);
    let dialer = dialer(&script, &[]);
    let good = dialer.resolve("Good.Example.", 443).await.unwrap();
    let expected: Vec<SocketAddr> = ["8.8.8.8:443", "[2606:4700::1111]:443"]
        .map(|a| a.parse().unwrap())
        .into();
    assert_eq!(good.addresses(), expected);
    assert_eq!(
        class_of(dialer.resolve("mixed.example", 443).await),
        AddressClass::Private
    );
    assert_eq!(
        class_of(dialer.resolve("mapped.example", 443).await),
        AddressClass::Loopback
    );
    assert!(matches!(
        dialer.resolve("empty.example", 443).await,
        Err(DialError::Dns { source: None })
    ));
    assert!(matches!(
        dialer.resolve("none.example", 443).await,
        Err(DialError::Dns { source: Some(_) })
    ));
}

#[tokio::test]
async fn spellings_of_this_machine_never_reach_the_resolver() {
    let script = Script::of(&[]);
    let dialer = dialer(&script, &[]);
    for (host, class) in [
        ("127.0.0.1", AddressClass::Loopback),
        ("[::1]", AddressClass::Loopback),
        ("[::ffff:7f00:1]", AddressClass::Loopback),
        ("0.0.0.0", AddressClass::Unspecified),
        ("169.254.169.254", AddressClass::LinkLocal),
        ("[64:ff9b::7f00:1]", AddressClass::Transition),
        ("127.1", AddressClass::Disguised),
        ("0x7f.1", AddressClass::Disguised),
        ("0X7F000001", AddressClass::Disguised),
        ("2130706433", AddressClass::Disguised),
        ("017700000001", AddressClass::Disguised),
        ("0177.0.0.1", AddressClass::Disguised),
        ("127.0.0.1.", AddressClass::Loopback),
        ("127.1.", AddressClass::Disguised),
    ] {
        assert_eq!(class_of(dialer.resolve(host, 80).await), class, "{host}");
    }
    for host in ["", "a b", "127。0。0。1", "①②⑦.0.0.1", "[::1%lo]"] {
        assert!(
            matches!(dialer.resolve(host, 80).await, Err(DialError::Host(_))),
            "{host}"
        );
    }
    assert!(matches!(
        dialer.resolve("8.8.8.8", 0).await,
        Err(DialError::Host(HostError::Port))
    ));
    assert_eq!(script.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn exceptions_are_by_network() {
    let script = Script::of(&[("seller.test", &[&["127.0.0.1", "::ffff:127.0.0.1"]])]);
    let dialer = dialer(&script, &["127.0.0.1/32", "fd00::/8"]);
    let checked = dialer.resolve("seller.test", 80).await.unwrap();
    assert_eq!(checked.addresses(), ["127.0.0.1:80".parse().unwrap()]);
    assert!(dialer.resolve("[fd12::1]", 80).await.is_ok());
    assert_eq!(class_of(dialer.resolve("127.0.0.2", 80).await), AddressClass::Loopback);
    assert_eq!(class_of(dialer.resolve("127.1", 80).await), AddressClass::Disguised);
}

#[tokio::test]
async fn beside_an_excepted_address_the_others_are_left_out() {
    let script = Script::of(&[
        ("localhost", &[&["::1", "127.0.0.1"]]),
        ("rebound.example", &[&["127.0.0.1", "169.254.169.254", "8.8.8.8"]]),
        ("mixed.example", &[&["8.8.8.8", "10.0.0.1"]]),
    ]);
    let dialer = dialer(&script, &["127.0.0.1/32"]);
    for name in ["localhost", "rebound.example"] {
        let checked = dialer.resolve(name, 443).await.unwrap();
        assert_eq!(checked.addresses(), ["127.0.0.1:443".parse().unwrap()], "{name}");
    }
    assert_eq!(
        class_of(dialer.resolve("mixed.example", 443).await),
        AddressClass::Private
    );
}

#[tokio::test]
async fn own_listeners_are_a_loop_even_where_allowed() {
    let script = Script::of(&[("me.test", &[&["127.0.0.1"]])]);
    let all = nets(&["0.0.0.0/0", "::/0"]);
    let own = |text: &str| Dialer::new(script.clone(), all.clone(), vec![text.parse().unwrap()], PATIENCE);
    for (listener, host, port, is_loop) in [
        ("127.0.0.1:8402", "me.test", 8402, true),
        ("127.0.0.1:8402", "[::ffff:127.0.0.1]", 8402, true),
        ("127.0.0.1:8402", "0.0.0.0", 8402, true),
        ("127.0.0.1:8402", "[::]", 8402, true),
        ("127.0.0.1:8402", "127.0.0.1", 8403, false),
        ("127.0.0.1:8402", "127.0.0.2", 8402, false),
        ("0.0.0.0:8402", "127.0.0.2", 8402, true),
        ("0.0.0.0:8402", "8.8.8.8", 8402, false),
        ("[::]:8402", "127.0.0.1", 8402, true),
    ] {
        let outcome = own(listener).resolve(host, port).await;
        assert_eq!(
            matches!(outcome, Err(DialError::Loop { .. })),
            is_loop,
            "{listener} {host} {outcome:?}"
        );
    }
}

#[tokio::test]
async fn what_was_checked_stays_pinned_when_the_name_moves() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = Script::of(&[("rebind.test", &[&["127.0.0.1"], &["10.0.0.1"]])]);
    let dialer = dialer(&script, &["127.0.0.1/32"]);
    let checked = dialer.resolve("rebind.test", port).await.unwrap();
    for _ in 0..2 {
        let (stream, address) = dialer.connect(&checked).await.unwrap();
        assert_eq!(address, listener.local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
    }
    assert_eq!(script.asked.load(Ordering::SeqCst), 1);
    assert_eq!(
        class_of(dialer.resolve("rebind.test", port).await),
        AddressClass::Private
    );
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    // Nothing listens on the other loopback addresses.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = Script::of(&[
        ("two.test", &[&["127.0.0.2", "127.0.0.1"]]),
        ("down.test", &[&["127.0.0.2", "127.0.0.3"]]),
    ]);
    let dialer = dialer(&script, &["127.0.0.0/8"]);
    let checked = dialer.resolve("two.test", port).await.unwrap();
    let (_, address) = dialer.connect(&checked).await.unwrap();
    assert_eq!(address, listener.local_addr().unwrap());
    let checked = dialer.resolve("down.test", port).await.unwrap();
    assert!(matches!(dialer.connect(&checked).await, Err(DialError::Refused)));
}

#[tokio::test]
async fn a_silent_address_does_not_hold_up_the_next() {
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let silent = full.local_addr().unwrap();
    // Linux drops further SYNs once the queue of a listener that never accepts is full.
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(silent)).await {
        queued.push(stream.unwrap());
        assert!(queued.len() < 64, "the queue never fills");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    let (_, address) = race([silent, good].into(), Duration::from_millis(10)).await.unwrap();
    assert_eq!(address, good);

    let mut dialer = Dialer::new(Arc::new(Silent), Vec::new(), Vec::new(), PATIENCE);
    dialer.patience.connect = Duration::from_millis(20);
    let checked = Checked {
        addresses: vec![silent],
    };
    assert!(matches!(
        dialer.connect(&checked).await,
        Err(DialError::Timeout(Stage::Connect))
    ));
}

/// Never answers.
struct Silent;

impl Resolver for Silent {
    fn lookup(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn lookups_end_in_time_and_are_bounded() {
    let mut dialer = Dialer::new(Arc::new(Silent), Vec::new(), Vec::new(), PATIENCE);
    dialer.patience.resolve = Duration::from_millis(50);
    let mut lookups = JoinSet::new();
    for _ in 0..LOOKUPS + 8 {
        let dialer = dialer.clone();
        lookups.spawn(async move { dialer.resolve("slow.example", 443).await });
    }
    while let Some(outcome) = lookups.join_next().await {
        assert!(matches!(outcome.unwrap(), Err(DialError::Timeout(Stage::Resolve))));
    }
    assert_eq!(
        dialer.lookups.available_permits(),
        0,
        "an abandoned lookup still counts"
    );
}

#[test]
fn families_take_turns() {
    let addresses: Vec<SocketAddr> = ["[2003::1]:1", "[2003::2]:1", "[2003::3]:1", "8.8.8.8:1"]
        .map(|a| a.parse().unwrap())
        .into();
    let order: Vec<_> = alternate(&addresses).into_iter().map(|a| a.to_string()).collect();
    assert_eq!(order, ["[2003::1]:1", "8.8.8.8:1", "[2003::2]:1", "[2003::3]:1"]);
}

#[tokio::test]
async fn nothing_to_dial_is_an_error() {
    assert!(matches!(
        race(VecDeque::new(), STAGGER).await,
        Err(DialError::Dns { source: None })
    ));
}

/// Nagle's algorithm and delayed acknowledgements together cost 40 ms per small write (R226).
#[tokio::test]
async fn a_dialled_connection_does_not_wait_to_send() {
    let script = Script::of(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialer = dialer(&script, &["127.0.0.1/32"]);
    let checked = dialer
        .resolve("127.0.0.1", listener.local_addr().unwrap().port())
        .await
        .unwrap();
    let (stream, _) = dialer.connect(&checked).await.unwrap();
    assert!(stream.nodelay().unwrap());
}
