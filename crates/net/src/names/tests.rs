use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch as switch;

use super::*;
use crate::shares::{Bounds, What};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the name servers do with each family; a test may change it.
#[derive(Clone)]
struct Servers(Arc<Inside>);

struct Inside {
    v4: switch::Sender<Doing>,
    v6: switch::Sender<Doing>,
    asked_v4: AtomicUsize,
    asked_v6: AtomicUsize,
}

#[derive(Clone, Debug)]
enum Doing {
    Answer(&'static str),
    /// After a time.
    Late(Duration, &'static str),
    Fail(NameFault),
    Silence,
}

impl Servers {
    fn new(v4: Doing, v6: Doing) -> Self {
        Self(Arc::new(Inside {
            v4: switch::Sender::new(v4),
            v6: switch::Sender::new(v6),
            asked_v4: AtomicUsize::new(0),
            asked_v6: AtomicUsize::new(0),
        }))
    }

    fn now(&self, v4: Doing, v6: Doing) {
        self.0.v4.send_replace(v4);
        self.0.v6.send_replace(v6);
    }

    fn asked(&self) -> (usize, usize) {
        let of = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (of(&self.0.asked_v4), of(&self.0.asked_v6))
    }

    fn names(&self) -> Names {
        self.names_in(places(64, 16))
    }

    fn names_in(&self, places: Places) -> Names {
        Names::new(Arc::new(self.clone()), places, PATIENCE)
    }
}

impl Resolver for Servers {
    fn lookup(&self, _: String, family: Family) -> Looking {
        let doing = match family {
            Family::V4 => self.0.v4.borrow().clone(),
            Family::V6 => self.0.v6.borrow().clone(),
        };
        let inside = self.0.clone();
        Box::pin(async move {
            // Counted when it is asked, not when it is prepared.
            match family {
                Family::V4 => inside.asked_v4.fetch_add(1, Ordering::SeqCst),
                Family::V6 => inside.asked_v6.fetch_add(1, Ordering::SeqCst),
            };
            match doing {
                Doing::Answer(address) => Ok(vec![address.parse().unwrap()]),
                Doing::Late(after, address) => {
                    tokio::time::sleep(after).await;
                    Ok(vec![address.parse().unwrap()])
                }
                Doing::Fail(fault) => ready(Err(fault)).await,
                Doing::Silence => std::future::pending().await,
            }
        })
    }
}

const V4: Doing = Doing::Answer("192.0.2.1");
const V6: Doing = Doing::Answer("2001:db8::1");
const NO_V6: Doing = Doing::Fail(NameFault::NoAddress);
const DEAD: Doing = Doing::Fail(NameFault::Failed);

fn places(all: usize, each: usize) -> Places {
    let of = |queue_each| {
        let bounds = Bounds { all, each, queue_each };
        Shares::new(What::Lookups, bounds)
    };
    Places {
        first: of(128),
        second: of(0),
    }
}

fn agent(name: &str) -> AgentName {
    name.parse().unwrap()
}

fn host(name: &str) -> Host {
    Host::parse(name).unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

async fn ask(names: &Names, name: &str) -> Result<Answer, Unresolved> {
    names.lookup(&agent("research"), &host(name)).await
}

async fn found(names: &Names, name: &str) -> Vec<String> {
    let answer = ask(names, name).await.unwrap();
    answer.addresses.iter().map(IpAddr::to_string).collect()
}

fn fault(outcome: Result<Answer, Unresolved>) -> NameFault {
    match outcome {
        Err(Unresolved::Fault(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_is_not_answered_costs_50_ms_once() {
    let servers = Servers::new(V4, Doing::Silence);
    let names = servers.names();
    let began = Instant::now();
    assert_eq!(found(&names, "a.example").await, ["192.0.2.1"]);
    assert_eq!(began.elapsed(), RESOLUTION_DELAY);
    let again = ask(&names, "a.example").await.unwrap();
    assert!(again.rest.is_some(), "it may still come");
    assert_eq!(began.elapsed(), RESOLUTION_DELAY, "kept");
    let servers = Servers::new(Doing::Silence, V6);
    assert_eq!(found(&servers.names(), "b.example").await, ["2001:db8::1"]);
}

#[tokio::test(start_paused = true)]
async fn where_one_family_has_nothing_the_other_is_waited_for() {
    for nothing in [NO_V6, DEAD] {
        let servers = Servers::new(nothing.clone(), Doing::Late(seconds(12), "2001:db8::1"));
        assert_eq!(
            found(&servers.names(), "a.example").await,
            ["2001:db8::1"],
            "{nothing:?}"
        );
        let servers = Servers::new(Doing::Late(seconds(12), "192.0.2.1"), nothing);
        assert_eq!(found(&servers.names(), "a.example").await, ["192.0.2.1"]);
    }
    let servers = Servers::new(Doing::Fail(NameFault::Unknown), DEAD);
    assert_eq!(fault(ask(&servers.names(), "a.example").await), NameFault::Unknown);
    let servers = Servers::new(Doing::Silence, Doing::Silence);
    let began = Instant::now();
    let outcome = ask(&servers.names(), "a.example").await;
    assert!(matches!(outcome, Err(Unresolved::Late(PATIENCE))));
    assert_eq!(began.elapsed(), PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn both_families_are_in_the_answer_and_its_rest() {
    let servers = Servers::new(V4, Doing::Late(seconds(1), "2001:db8::1"));
    let names = servers.names();
    let answer = ask(&names, "a.example").await.unwrap();
    assert_eq!(answer.addresses.len(), 1);
    let all = answer.rest.unwrap().all().await;
    assert_eq!(all.len(), 2, "{all:?}");
    let later = ask(&names, "a.example").await.unwrap();
    assert_eq!((later.addresses.len(), later.rest.is_none()), (2, true));
    assert_eq!(servers.asked(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_serves_all_agents_for_30_s_and_takes_no_place() {
    let servers = Servers::new(V4, NO_V6);
    let room = places(1, 1);
    let names = servers.names_in(room.clone());
    found(&names, "a.example").await;
    tokio::task::yield_now().await;
    let _all = room.first.wait(&agent("greedy")).await.unwrap();
    for name in ["good", "greedy", "third"] {
        let answer = names.lookup(&agent(name), &host("A.example.")).await.unwrap();
        assert_eq!(answer.addresses.len(), 1);
    }
    drop(_all);
    tokio::time::advance(seconds(29)).await;
    found(&names, "a.example").await;
    assert_eq!(servers.asked().0, 1);
    servers.now(Doing::Answer("192.0.2.9"), NO_V6);
    tokio::time::advance(seconds(2)).await;
    assert_eq!(found(&names, "a.example").await, ["192.0.2.9"]);
    assert_eq!(servers.asked().0, 2);
}

#[tokio::test(start_paused = true)]
async fn failures_are_not_kept() {
    let servers = Servers::new(DEAD, DEAD);
    let names = servers.names();
    assert_eq!(fault(ask(&names, "a.example").await), NameFault::Failed);
    servers.now(V4, NO_V6);
    assert_eq!(found(&names, "a.example").await, ["192.0.2.1"]);
}

#[tokio::test(start_paused = true)]
async fn equal_look_ups_are_one_but_nobody_inherits_a_long_wait() {
    let servers = Servers::new(Doing::Silence, Doing::Silence);
    let names = servers.names();
    let mut asking = tokio::task::JoinSet::new();
    for who in ["one", "two", "three"] {
        let names = names.clone();
        asking.spawn(async move { names.lookup(&agent(who), &host("a.example")).await });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(servers.asked(), (1, 1));
    // The servers are back. Who asks now is not held up by those who asked before.
    servers.now(V4, NO_V6);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let began = Instant::now();
    let answer = names.lookup(&agent("four"), &host("a.example")).await.unwrap();
    assert_eq!((answer.addresses.len(), began.elapsed()), (1, Duration::ZERO));
    assert_eq!(servers.asked(), (2, 2));
    // Their callers' hanging look-up harms nobody's later ones either.
    assert_eq!(found(&names, "a.example").await, ["192.0.2.1"]);
    asking.abort_all();
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_the_queue_of_its_agent_holds_up_nobody() {
    let servers = Servers::new(Doing::Silence, Doing::Silence);
    let names = servers.names_in(places(4, 1));
    let mut asking = tokio::task::JoinSet::new();
    for name in ["hangs.example", "wanted.example"] {
        let names = names.clone();
        asking.spawn(async move { names.lookup(&agent("greedy"), &host(name)).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    servers.now(V4, NO_V6);
    let began = Instant::now();
    names.lookup(&agent("good"), &host("wanted.example")).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    asking.abort_all();
}

#[tokio::test(start_paused = true)]
async fn when_the_name_servers_die_the_last_answer_goes_on() {
    let servers = Servers::new(V4, NO_V6);
    let names = servers.names();
    let held = ask(&names, "held.example").await.unwrap();
    found(&names, "idle.example").await;
    for dead in [DEAD, Doing::Silence] {
        servers.now(dead.clone(), dead);
        tokio::time::advance(seconds(60)).await;
        for name in ["held.example", "idle.example"] {
            let began = Instant::now();
            assert_eq!(found(&names, name).await, ["192.0.2.1"]);
            assert!(began.elapsed() <= STALE_WAIT, "{:?}", began.elapsed());
        }
    }
    // A caller that comes while a look-up hangs does not wait again, and asks nothing more.
    let (before, began) = (servers.asked(), Instant::now());
    for _ in 0..100 {
        found(&names, "held.example").await;
    }
    assert_eq!((servers.asked(), began.elapsed()), (before, Duration::ZERO));
    // A tunnel may live for days.
    tokio::time::advance(STALE * 100).await;
    servers.now(DEAD, DEAD);
    assert_eq!(fault(ask(&names, "idle.example").await), NameFault::Failed);
    tokio::time::advance(seconds(1)).await;
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_tunnels_answer_outlives_all_others() {
    let servers = Servers::new(V4, NO_V6);
    let names = servers.names();
    let held = ask(&names, "held.example").await.unwrap();
    // One agent visits very many sites.
    for number in 0..5 * MOST {
        let name = host(&format!("h{number}.example"));
        names.lookup(&agent("bad"), &name).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(names.kept.len() <= MOST + 1, "{}", names.kept.len());
    servers.now(DEAD, DEAD);
    tokio::time::advance(STALE * 100).await;
    assert_eq!(found(&names, "held.example").await, ["192.0.2.1"]);
    drop(held);
    assert_eq!(fault(ask(&names, "held.example").await), NameFault::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_gone_is_gone() {
    let servers = Servers::new(V4, NO_V6);
    let names = servers.names();
    let _held = ask(&names, "a.example").await.unwrap();
    servers.now(Doing::Fail(NameFault::Unknown), Doing::Fail(NameFault::Unknown));
    tokio::time::advance(seconds(31)).await;
    assert_eq!(fault(ask(&names, "a.example").await), NameFault::Unknown);
    servers.now(DEAD, DEAD);
    assert_eq!(
        fault(ask(&names, "a.example").await),
        NameFault::Failed,
        "not the old answer"
    );
}

/// Where AAAA is swallowed, each look-up's second thread hangs for many seconds. Names are found all the same, and the
/// threads stay within their bound.
#[tokio::test(start_paused = true)]
async fn hanging_second_look_ups_use_up_only_their_own_places() {
    let servers = Servers::new(V4, Doing::Silence);
    let room = places(8, 4);
    let names = servers.names_in(room.clone());
    let began = Instant::now();
    for number in 0..20 {
        found(&names, &format!("h{number}.example")).await;
    }
    assert_eq!(servers.asked(), (20, 4));
    assert_eq!(began.elapsed(), RESOLUTION_DELAY * 4, "then nobody waits for it");
    assert_eq!((room.first.used(), room.second.used()), (0, 4));
    // Another agent has places of its own, and a name with nothing but IPv6 is found without one.
    names.lookup(&agent("other"), &host("h.example")).await.unwrap();
    assert_eq!(servers.asked(), (21, 5));
    servers.now(NO_V6, V6);
    assert_eq!(found(&names, "six.example").await, ["2001:db8::1"]);
    assert_eq!(servers.asked(), (22, 6));
}

#[test]
fn this_machines_routes_decide_which_family_comes_first() {
    let found = |v6: &str| {
        let (sender, found) = watch::channel(Found::default());
        put(&sender, Family::V6, Ok(vec![v6.parse().unwrap()]));
        put(&sender, Family::V4, Ok(vec!["192.0.2.1".parse().unwrap()]));
        found.borrow().addresses().unwrap()
    };
    // The loopback address is reached from itself, wherever IPv6 is on.
    let has_loopback = UdpSocket::bind("[::1]:0").is_ok();
    assert_eq!(found("::1")[0].is_ipv6(), has_loopback);
    let preferred = is_preferred("2606:4700::1111".parse().unwrap());
    assert_eq!(found("2606:4700::1111")[0].is_ipv6(), preferred);
    // No machine has a route to these (RFC 6666).
    assert!(!found("100::1")[0].is_ipv6() || preferred);
}
