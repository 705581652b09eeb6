use std::collections::{HashMap, VecDeque};
use std::future::ready;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::race::ATTEMPTS;
use super::*;

use crate::shares::Full;

const PATIENCE: Patience = Patience {
    resolve: Duration::from_secs(5),
    connect: Duration::from_secs(10),
};

/// Answers by name, one list per look-up; the last list is repeated. Both families are taken from one list.
#[derive(Default)]
struct Script {
    answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    now: Mutex<HashMap<String, Vec<IpAddr>>>,
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
            ..Self::default()
        })
    }

    fn turn(&self, host: &str) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let Some(lists) = answers.get_mut(host) else { return };
        let list = match lists.len() {
            1 => lists[0].clone(),
            _ => lists.pop_front().unwrap(),
        };
        self.now.lock().unwrap().insert(host.to_owned(), list);
    }
}

impl Resolver for Script {
    fn lookup(&self, host: String, family: Family) -> Looking {
        if family == Family::V4 {
            self.turn(&host);
        }
        let now = self.now.lock().unwrap();
        let answer = match now.get(&host) {
            None => Err(NameFault::Unknown),
            Some(list) => {
                let own = list.iter().filter(|a| a.is_ipv6() == (family == Family::V6));
                let own: Vec<IpAddr> = own.copied().collect();
                match own.is_empty() {
                    true => Err(NameFault::NoAddress),
                    false => Ok(own),
                }
            }
        };
        Box::pin(ready(answer))
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn dialer(script: &Arc<Script>, allow_private: &[&str]) -> Dialer {
    Dialer::new(
        script.clone(),
        nets(allow_private),
        Vec::new(),
        PATIENCE,
        Room::default(),
    )
}

fn agent(name: &str) -> AgentName {
    name.parse().unwrap()
}

fn research() -> AgentName {
    agent("research")
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
    let good = dialer.resolve(&research(), "Good.Example.", 443).await.unwrap();
    let expected: Vec<SocketAddr> = ["8.8.8.8:443", "[2606:4700::1111]:443"]
        .map(|a| a.parse().unwrap())
        .into();
    assert_eq!(good.addresses().len(), 2);
    assert!(expected.iter().all(|address| good.addresses().contains(address)));
    assert_eq!(
        class_of(dialer.resolve(&research(), "mixed.example", 443).await),
        AddressClass::Private
    );
    assert_eq!(
        class_of(dialer.resolve(&research(), "mapped.example", 443).await),
        AddressClass::Loopback
    );
    assert!(matches!(
        dialer.resolve(&research(), "empty.example", 443).await,
        Err(DialError::Dns {
            why: NameFault::NoAddress
        })
    ));
    assert!(matches!(
        dialer.resolve(&research(), "none.example", 443).await,
        Err(DialError::Dns {
            why: NameFault::Unknown
        })
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
        ("[64:ff9b::7f00:1]", AddressClass::Loopback),
        ("127.1", AddressClass::Disguised),
        ("0x7f.1", AddressClass::Disguised),
        ("0X7F000001", AddressClass::Disguised),
        ("2130706433", AddressClass::Disguised),
        ("017700000001", AddressClass::Disguised),
        ("0177.0.0.1", AddressClass::Disguised),
        ("127.0.0.1.", AddressClass::Loopback),
        ("127.1.", AddressClass::Disguised),
    ] {
        assert_eq!(class_of(dialer.resolve(&research(), host, 80).await), class, "{host}");
    }
    for host in ["", "a b", "127。0。0。1", "①②⑦.0.0.1", "[::1%lo]"] {
        assert!(
            matches!(dialer.resolve(&research(), host, 80).await, Err(DialError::Host(_))),
            "{host}"
        );
    }
    assert!(matches!(
        dialer.resolve(&research(), "8.8.8.8", 0).await,
        Err(DialError::Host(HostError::Port))
    ));
    assert_eq!(script.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn exceptions_are_by_network() {
    let script = Script::of(&[("seller.test", &[&["127.0.0.1", "::ffff:127.0.0.1"]])]);
    let dialer = dialer(&script, &["127.0.0.1/32", "fd00::/8"]);
    let checked = dialer.resolve(&research(), "seller.test", 80).await.unwrap();
    assert_eq!(checked.addresses(), ["127.0.0.1:80".parse().unwrap()]);
    assert!(dialer.resolve(&research(), "[fd12::1]", 80).await.is_ok());
    assert_eq!(
        class_of(dialer.resolve(&research(), "127.0.0.2", 80).await),
        AddressClass::Loopback
    );
    assert_eq!(
        class_of(dialer.resolve(&research(), "127.1", 80).await),
        AddressClass::Disguised
    );
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
        let checked = dialer.resolve(&research(), name, 443).await.unwrap();
        assert_eq!(checked.addresses(), ["127.0.0.1:443".parse().unwrap()], "{name}");
    }
    assert_eq!(
        class_of(dialer.resolve(&research(), "mixed.example", 443).await),
        AddressClass::Private
    );
}

#[tokio::test]
async fn own_listeners_are_a_loop_even_where_allowed() {
    let script = Script::of(&[("me.test", &[&["127.0.0.1"]])]);
    let all = nets(&["0.0.0.0/0", "::/0"]);
    let own = |text: &str| {
        Dialer::new(
            script.clone(),
            all.clone(),
            vec![text.parse().unwrap()],
            PATIENCE,
            Room::default(),
        )
    };
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
        let outcome = own(listener).resolve(&research(), host, port).await;
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
    let checked = dialer.resolve(&research(), "rebind.test", port).await.unwrap();
    for _ in 0..2 {
        let Dialled { stream, address, .. } = dialer.connect(&research(), &checked).await.unwrap();
        assert_eq!(address, listener.local_addr().unwrap());
        assert!(stream.socket().nodelay().unwrap());
    }
    assert_eq!(script.asked.load(Ordering::SeqCst), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(
        class_of(dialer.resolve(&research(), "rebind.test", port).await),
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
    let checked = dialer.resolve(&research(), "two.test", port).await.unwrap();
    let Dialled { address, .. } = dialer.connect(&research(), &checked).await.unwrap();
    assert_eq!(address, listener.local_addr().unwrap());
    let checked = dialer.resolve(&research(), "down.test", port).await.unwrap();
    assert!(matches!(
        dialer.connect(&research(), &checked).await,
        Err(DialError::Refused)
    ));
}

/// A listener on another loopback address that accepts nothing: Linux drops further SYNs once its queue is full. What
/// keeps it full is returned with it.
async fn silent(host: &str) -> (SocketAddr, tokio::net::TcpListener, Vec<TcpStream>) {
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind(format!("{host}:0").parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let silent = full.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(silent)).await {
        queued.push(stream.unwrap());
        assert!(queued.len() < 64, "the queue never fills");
    }
    (silent, full, queued)
}

fn pace(stagger: u64) -> Pace {
    Pace {
        stagger: Duration::from_millis(stagger),
        each: PATIENCE.connect,
    }
}

fn no_more() -> std::future::Ready<Result<Vec<SocketAddr>, DialError>> {
    ready(Ok(Vec::new()))
}

#[tokio::test]
async fn a_silent_address_does_not_hold_up_the_next() {
    let (silent, _full, _queued) = silent("127.0.0.2").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    let sites = Room::new(1, 1, 8, 8).sites;
    let share = || sites.take(&research(), 1).unwrap();
    let won = race([silent, good].into(), no_more(), pace(10), share(), &sites)
        .await
        .unwrap();
    assert_eq!(won.address, good);
    // The attempt that lost gives its share back.
    comes_to(&sites, 1).await;

    // However many addresses a name has, few are tried at a time; and none without a share of its own.
    for (free, most) in [(7, ATTEMPTS), (2, 2)] {
        comes_to(&sites, 1).await;
        let others: Vec<_> = (free..7).map(|_| share()).collect();
        let racing = race([silent; 20].into(), no_more(), pace(1), share(), &sites);
        let mut trying = std::pin::pin!(racing);
        let tried = timeout(Duration::from_millis(100), &mut trying).await;
        assert!(tried.is_err(), "{tried:?}");
        assert_eq!(sites.used(), 1 + others.len() + most);
    }
    drop(won);
    comes_to(&sites, 0).await;

    let mut dialer = Dialer::new(Arc::new(Silent), Vec::new(), Vec::new(), PATIENCE, Room::default());
    dialer.patience.connect = Duration::from_millis(20);
    assert!(matches!(
        dialer.connect(&research(), &Checked::of(vec![silent])).await,
        Err(DialError::Timeout(Stage::Connect(_)))
    ));
}

/// Three addresses of the first family swallow everything, and the second family's works: as quick as curl, which waits
/// for 200 ms.
#[tokio::test]
async fn behind_a_family_that_is_swallowed_the_other_one_is_reached_after_one_stagger() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    let (silent, _full, _queued) = silent("127.0.0.4").await;
    let dialer = dialer(&Script::of(&[]), &["127.0.0.0/8"]);
    // As `alternate` orders [v6, v6, v6, v4]; `families_take_turns` has the order.
    let began = std::time::Instant::now();
    let won = dialer
        .connect(&research(), &Checked::of(vec![silent, good, silent, silent]))
        .await
        .unwrap();
    assert_eq!(won.address, good);
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(200) && took < Duration::from_secs(2),
        "{took:?}"
    );
}

/// More silent addresses than there may be attempts: each has its part of the time, and the last one is reached.
#[tokio::test]
async fn the_last_of_many_addresses_is_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    let (silent, _full, _queued) = silent("127.0.0.5").await;
    let sites = Room::default().sites;
    let mut list = vec![silent; 2 * ATTEMPTS];
    list.push(good);
    let pace = Pace {
        stagger: Duration::from_millis(5),
        each: Duration::from_millis(100),
    };
    let share = sites.take(&research(), 1).unwrap();
    let won = race(list.into(), no_more(), pace, share, &sites).await.unwrap();
    assert_eq!(won.address, good);
    assert_eq!(Pace::of(4, Duration::from_secs(10)).each, Duration::from_secs(10));
    assert_eq!(Pace::of(9, Duration::from_secs(9)).each, Duration::from_secs(3));
    assert_eq!(Pace::of(1000, Duration::from_secs(10)).each, Duration::from_secs(2));
    assert_eq!(Pace::of(1000, Duration::from_secs(1)).each, Duration::from_secs(1));
}

/// The first family is answered at once, the second one when the test says so.
struct Halves {
    first: Vec<IpAddr>,
    second: Mutex<Option<oneshot::Receiver<Vec<IpAddr>>>>,
}

impl Halves {
    fn of(first: &str) -> (Arc<Self>, oneshot::Sender<Vec<IpAddr>>) {
        let (sender, second) = oneshot::channel();
        let halves = Self {
            first: vec![first.parse().unwrap()],
            second: Mutex::new(Some(second)),
        };
        (Arc::new(halves), sender)
    }
}

impl Resolver for Halves {
    fn lookup(&self, _: String, family: Family) -> Looking {
        match family {
            Family::V4 => Box::pin(ready(Ok(self.first.clone()))),
            Family::V6 => {
                let second = self.second.lock().unwrap().take().unwrap();
                Box::pin(async { second.await.map_err(|_| NameFault::Failed) })
            }
        }
    }
}

/// "As far as it is known": the public address may be dialled until the private one arrives; from then on, none.
#[tokio::test]
async fn a_private_address_that_comes_late_refuses_the_name_from_then_on() {
    let (halves, sender) = Halves::of("8.8.8.8");
    let dialer = Dialer::new(halves, Vec::new(), Vec::new(), PATIENCE, Room::default());
    let checked = dialer.resolve(&research(), "late.example", 443).await.unwrap();
    assert_eq!(checked.addresses(), ["8.8.8.8:443".parse().unwrap()]);
    sender.send(vec!["fd00::1".parse().unwrap()]).unwrap();
    let refused = async {
        while dialer.resolve(&research(), "late.example", 443).await.is_ok() {
            tokio::task::yield_now().await;
        }
        dialer.resolve(&agent("other"), "late.example", 443).await
    };
    assert_eq!(class_of(refused.await), AddressClass::Private);
    // The addresses that were checked before are no exception, and are not dialled.
    let outcome = dialer.connect(&research(), &checked).await;
    assert!(
        matches!(&outcome, Err(DialError::Guard { class, .. }) if *class == AddressClass::Private),
        "{outcome:?}"
    );
    assert_eq!(dialer.room.sites.used(), 0);
}

/// The same while an attempt is under way.
#[tokio::test]
async fn what_comes_late_and_is_refused_ends_the_race() {
    let (silent, _full, _queued) = silent("127.0.0.6").await;
    let sites = Room::default().sites;
    let (sender, receiver) = oneshot::channel();
    let later = async { Err(receiver.await.unwrap()) };
    let share = sites.take(&research(), 1).unwrap();
    let racing = race([silent].into(), later, pace(10), share, &sites);
    let (outcome, ()) = tokio::join!(racing, async {
        tokio::task::yield_now().await;
        sender
            .send(Refusal::Guard(AddressClass::Private, "10.0.0.1".parse().unwrap()).into())
            .unwrap();
    });
    assert!(matches!(outcome, Err(DialError::Guard { .. })), "{outcome:?}");
    comes_to(&sites, 0).await;
}

#[tokio::test]
async fn an_address_that_comes_late_is_checked_and_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Nothing listens on the first one.
    let (halves, sender) = Halves::of("127.0.0.2");
    let dialer = Dialer::new(halves, nets(&["127.0.0.0/8"]), Vec::new(), PATIENCE, Room::default());
    let checked = dialer.resolve(&research(), "late.test", port).await.unwrap();
    assert_eq!(checked.addresses().len(), 1);
    let who = research();
    let (won, ()) = tokio::join!(dialer.connect(&who, &checked), async {
        // Given back with the refused attempt, or still in it; either way the late one is waited for.
        tokio::task::yield_now().await;
        sender.send(vec!["127.0.0.1".parse().unwrap()]).unwrap();
    });
    let won = won.unwrap();
    assert_eq!(won.address, listener.local_addr().unwrap());
    assert!(
        checked.addresses().contains(&won.address),
        "a replay may use the connection"
    );
}

/// A task that is aborted ends when the runtime gets to it.
async fn comes_to(shares: &Shares, used: usize) {
    let look = async {
        while shares.used() != used {
            tokio::task::yield_now().await;
        }
    };
    let came = timeout(Duration::from_secs(10), look).await;
    assert!(came.is_ok(), "{} are used, not {used}", shares.used());
}

/// Never answers.
struct Silent;

impl Resolver for Silent {
    fn lookup(&self, _: String, _: Family) -> Looking {
        Box::pin(std::future::pending())
    }
}

/// Names that begin with `slow` are answered when the test says so, others at once.
struct Slow {
    asked: AtomicUsize,
    go_on: Arc<tokio::sync::Semaphore>,
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            asked: AtomicUsize::new(0),
            go_on: Arc::new(tokio::sync::Semaphore::new(0)),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolver for Slow {
    fn lookup(&self, host: String, family: Family) -> Looking {
        if family == Family::V6 {
            return Box::pin(ready(Err(NameFault::NoAddress)));
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let go_on = self.go_on.clone();
        Box::pin(async move {
            if host.starts_with("slow") {
                let _turn = go_on.acquire().await;
            }
            Ok(vec!["8.8.8.8".parse().unwrap()])
        })
    }
}

const LOOKUPS: usize = 8;
const LOOKUPS_EACH: usize = 3;

fn slowly(resolver: &Arc<Slow>) -> Dialer {
    let room = Room::new(LOOKUPS, LOOKUPS_EACH, 8, 8);
    Dialer::new(resolver.clone(), Vec::new(), Vec::new(), PATIENCE, room)
}

/// An agent that asks for `count` slow names.
fn ask(dialer: &Dialer, who: &'static str, count: usize) -> JoinSet<Result<Checked, DialError>> {
    let mut asking = JoinSet::new();
    for number in 0..count {
        let dialer = dialer.clone();
        let host = format!("slow{number}.example");
        asking.spawn(async move { dialer.resolve(&agent(who), &host, 443).await });
    }
    asking
}

#[tokio::test(start_paused = true)]
async fn slow_names_of_one_agent_do_not_delay_another() {
    let resolver = Slow::new();
    let dialer = slowly(&resolver);
    let began = Instant::now();
    let mut bad = ask(&dialer, "bad", 320);
    // More than may wait are answered at once.
    for _ in 0..320 - LOOKUPS_EACH - Room::QUEUED_LOOKUPS {
        let outcome = bad.join_next().await.unwrap().unwrap();
        let full = Full {
            what: What::Lookups,
            by: crate::shares::By::Agent,
        };
        assert!(
            matches!(outcome, Err(DialError::Full(why)) if why == full),
            "{outcome:?}"
        );
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(resolver.asked(), LOOKUPS_EACH);
    for name in ["fast.example", "another.example", "localhost", "8.8.8.8"] {
        let outcome = dialer.resolve(&agent("good"), name, 443).await;
        assert!(
            !matches!(outcome, Err(DialError::Timeout(_) | DialError::Full(_))),
            "{name}: {outcome:?}"
        );
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing had to be waited for");
    assert_eq!(resolver.asked(), LOOKUPS_EACH + 2, "localhost and addresses ask nobody");
    // The rest of them get their answers in time as well.
    while let Some(outcome) = bad.join_next().await {
        assert!(matches!(
            outcome.unwrap(),
            Err(DialError::Timeout(Stage::Resolve(_)) | DialError::Full(_))
        ));
    }
    assert_eq!(began.elapsed(), PATIENCE.resolve);
    // What was asked and not answered still blocks its threads, and counts.
    assert_eq!(dialer.room.lookups.used(), LOOKUPS_EACH);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_nobody_waits_for_is_never_asked() {
    let resolver = Slow::new();
    let dialer = slowly(&resolver);
    let mut bad = ask(&dialer, "bad", 100);
    while dialer.room.lookups.waiting() < 100 - LOOKUPS_EACH {
        tokio::task::yield_now().await;
    }
    bad.abort_all();
    while bad.join_next().await.is_some() {}
    assert_eq!(dialer.room.lookups.waiting(), 0, "they have left the queue");
    // The threads come back, and go to the callers that still wait.
    let mut late = JoinSet::new();
    let after = dialer.clone();
    late.spawn(async move { after.resolve(&agent("bad"), "slow-and-late.example", 443).await });
    resolver.go_on.add_permits(1);
    assert!(late.join_next().await.unwrap().unwrap().is_ok());
    assert_eq!(resolver.asked(), LOOKUPS_EACH + 1);
    while dialer.room.lookups.used() > 0 {
        tokio::task::yield_now().await;
    }
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
    let sites = Room::default().sites;
    let share = sites.take(&research(), 1).unwrap();
    assert!(matches!(
        race(VecDeque::new(), no_more(), pace(10), share, &sites).await,
        Err(DialError::Dns { .. })
    ));
    assert_eq!(sites.used(), 0);
}

/// Nagle's algorithm and delayed acknowledgements together cost 40 ms per small write (R226).
#[tokio::test]
async fn a_dialled_connection_does_not_wait_to_send() {
    let script = Script::of(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialer = dialer(&script, &["127.0.0.1/32"]);
    let checked = dialer
        .resolve(&research(), "127.0.0.1", listener.local_addr().unwrap().port())
        .await
        .unwrap();
    let Dialled { stream, .. } = dialer.connect(&research(), &checked).await.unwrap();
    assert!(stream.socket().nodelay().unwrap());
}

/// Behind a corporate proxy: what this machine can resolve is guarded as ever; the rest is the proxy's to look up.
#[tokio::test]
async fn behind_a_corporate_proxy_what_is_known_here_is_still_guarded() {
    use crate::corporate::{NoProxy, ProxyAddress};
    use crate::tls::upstream::{Trust, UpstreamTls};

    let tls = UpstreamTls::new(&Trust::default(), PATIENCE.connect).unwrap();
    let mut no_proxy = NoProxy::default();
    no_proxy.add("spared.example").unwrap();
    let address = ProxyAddress::parse("http://10.9.9.9:3128").unwrap();
    let proxy = Arc::new(CorporateProxy::new(
        address,
        None,
        no_proxy,
        tls.config(crate::tls::AlpnOffer::Http1),
    ));
    let script = Script::of(&[
        ("intranet", &[&["10.0.0.5"]]),
        ("vault.corp.example", &[&["10.0.0.6"]]),
        ("public.example", &[&["8.8.8.8"]]),
        ("www.spared.example", &[&["8.8.4.4"]]),
        ("inside.spared.example", &[&["10.0.0.7"]]),
    ]);
    let behind = |allow: &[&str]| dialer(&script, allow).behind(Some(proxy.clone()));
    let guarded = behind(&[]);
    for (host, class) in [
        ("10.0.0.1", AddressClass::Private),
        ("169.254.169.254", AddressClass::LinkLocal),
        ("[::1]", AddressClass::Loopback),
        ("localhost", AddressClass::Loopback),
        ("127.1", AddressClass::Disguised),
        ("intranet", AddressClass::Private),
        ("vault.corp.example", AddressClass::Private),
        ("inside.spared.example", AddressClass::Private),
    ] {
        assert_eq!(class_of(guarded.resolve(&research(), host, 443).await), class, "{host}");
    }
    // A name without a dot, or of this machine's own kinds, that nobody knows here means nothing elsewhere.
    for host in ["nobody", "nobody.localhost", "printer.local"] {
        let outcome = guarded.resolve(&research(), host, 443).await;
        assert!(matches!(outcome, Err(DialError::Dns { .. })), "{host}: {outcome:?}");
    }
    for (host, first, through) in [
        ("public.example", "10.9.9.9:3128", true),
        ("unknown.example", "10.9.9.9:3128", true),
        ("8.8.8.8", "10.9.9.9:3128", true),
        ("www.spared.example", "8.8.4.4:443", false),
    ] {
        let checked = guarded.resolve(&research(), host, 443).await.unwrap();
        assert_eq!(checked.addresses(), [first.parse().unwrap()], "{host}");
        assert_eq!(checked.through.is_some(), through, "{host}");
    }
    // What is this machine's own is never asked of the proxy, and an exception goes through it unless it is spared.
    let allowing = behind(&["127.0.0.0/8", "10.0.0.0/8"]);
    let checked = allowing.resolve(&research(), "localhost", 80).await.unwrap();
    assert_eq!(checked.addresses(), ["127.0.0.1:80".parse().unwrap()]);
    let checked = allowing.resolve(&research(), "intranet", 80).await.unwrap();
    assert!(checked.through.is_some());
    let checked = allowing
        .resolve(&research(), "inside.spared.example", 80)
        .await
        .unwrap();
    assert_eq!(checked.addresses(), ["10.0.0.7:80".parse().unwrap()]);
    // Where name servers say nothing, sites are found all the same.
    let silent = Dialer::new(Arc::new(Silent), Vec::new(), Vec::new(), PATIENCE, Room::default());
    let silent = silent.behind(Some(proxy.clone()));
    tokio::time::pause();
    assert!(
        silent
            .resolve(&research(), "shop.example", 443)
            .await
            .unwrap()
            .through
            .is_some()
    );
}
