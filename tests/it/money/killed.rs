//! The process dies at every step from the 402 to its shutdown, and at every step of the next start, against a seller
//! that keeps every credential it ever saw: the counted amount is never less than what left us and never more than the
//! cap, and a repeated request gets what it paid for without a second credential.
//!
//! `tests/faults/long.sh` runs the same many times, with every kind of seller at every step.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::agent::{Agent, Page};
use crate::support::bursar::{Bursar, Home, setup};
use crate::support::credentials;
use crate::support::faults::{Faults, Moment, Step};
use crate::support::origin::{Answer, Origin, Parts, answer, streamed};
use crate::support::seller;

/// Atoms of one purchase: one cent.
const PRICE: u128 = 10_000;

/// What the seller does with the credential; the first segment of the path.
const WAYS: [&str; 6] = ["sells", "hangs", "asks-again", "fails", "breaks-off", "cheats"];

/// An upper bound on the steps of a start, or of a purchase with a clean shutdown.
const TOO_MANY: usize = 400;

/// Whether this is the long run: every kind of kill at every step, and many more random kills.
fn rounds(few: usize) -> usize {
    std::env::var("BURSAR_TEST_KILLS").map_or(few, |kills| kills.parse().unwrap())
}

struct Hoarder {
    origin: Origin,
    /// Notified while a credential is held without an answer.
    holds: Arc<Notify>,
    /// Once false, it sells whatever the path says.
    hostile: Arc<AtomicBool>,
}

/// A slow machine takes longer than a minute for a story, and the credential must still be valid at its end.
fn asks_with_patience() -> Answer {
    let mut requirement = seller::requirement(&PRICE.to_string());
    requirement["maxTimeoutSeconds"] = 300.into();
    seller::v2(&seller::challenge("/", &[requirement]))
}

async fn hoarder() -> Hoarder {
    let (holds, hostile) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(true)));
    let (held, is_hostile) = (holds.clone(), hostile.clone());
    let origin = Origin::https(move |request| {
        let (held, is_hostile) = (held.clone(), is_hostile.clone());
        async move {
            if request.target == "/free" {
                return answer(200, &[], "welcome");
            }
            if !request.is_paid() {
                return asks_with_patience();
            }
            let way = request.target.split('/').nth(1).unwrap();
            match way {
                _ if !is_hostile.load(Ordering::SeqCst) => seller::sold("goods"),
                "sells" => seller::sold("goods"),
                "hangs" => {
                    held.notify_one();
                    std::future::pending().await
                }
                "asks-again" => seller::asks(&PRICE.to_string()),
                "fails" => answer(500, &[], "out of order"),
                "breaks-off" => breaks_off().await,
                // Keeps the credential and claims that it was invalid.
                "cheats" => answer(402, &[("payment-response", &seller::receipt(false, ""))], "no"),
                other => unreachable!("{other}"),
            }
        }
    })
    .await;
    Hoarder { origin, holds, hostile }
}

/// A receipt says paid, but the body ends in the middle.
async fn breaks_off() -> Answer {
    let (body, parts) = Parts::new();
    body.send(Ok(Bytes::from_static(b"go"))).await.unwrap();
    body.send(Err(std::io::Error::other("cut"))).await.unwrap();
    streamed(seller::sold(""), parts)
}

impl Hoarder {
    /// The distinct credentials received, with their paths. None may be used for two paths.
    fn credentials(&self) -> HashMap<String, String> {
        let mut paths = HashMap::new();
        for request in self.origin.seen() {
            let Some(credential) = request.payment() else { continue };
            let path = paths
                .entry(seller::signed(&credential).0)
                .or_insert(request.target.clone());
            assert_eq!(*path, request.target, "one credential for two requests");
        }
        paths
    }

    fn credentials_for(&self, path: &str) -> usize {
        self.credentials().values().filter(|of| *of == path).count()
    }

    /// Asserts that everything the seller could cash is counted, and that the counted amount is within the cap.
    fn agrees_with(&self, home: &Home, cap: u128, when: &str) {
        let counted: BTreeMap<String, u128> = home
            .payments(&[])
            .iter()
            .filter(|payment| ["held", "armed", "unknown", "settled"].contains(&payment["state"].as_str().unwrap()))
            .map(|payment| {
                let nonce = payment["nonce"].as_str().unwrap().to_owned();
                (nonce, payment["amount"].as_str().unwrap().parse().unwrap())
            })
            .collect();
        for (nonce, path) in self.credentials() {
            assert_eq!(
                counted.get(&nonce),
                Some(&PRICE),
                "{when}: the seller holds a credential for {path} that does not count"
            );
        }
        let counted: u128 = counted.values().sum();
        assert!(counted <= cap, "{when}: {counted} counted, and the cap is {cap}");
    }
}

fn limits(cents: u128) -> String {
    format!(
        "timezone = \"UTC\"\n[agents.research]\ntotal = \"{}.{:02}\"\n",
        cents / 100,
        cents % 100
    )
}

fn home(seller: &Hoarder, cents: u128) -> Home {
    setup()
        .limits(&limits(cents))
        .trust(&seller.origin.ca_pem)
        .config("[timeouts]\nsettle_wait_s = 1\ndrain_s = 1\n")
        .home()
}

/// One purchase and a clean shutdown, under a plan. Returns what the agent saw, and whether the server stopped cleanly.
async fn bought_under(bursar: &mut Bursar, seller: &Hoarder, path: &str, plan: impl FnOnce()) -> (Option<Page>, bool) {
    let address = seller.origin.address;
    let mut connection = Agent::of(bursar).connect(address, &["http/1.1"]).await;
    // Both connections are open before counting begins, so that step numbers are the same each time.
    let free = Request::get("/free").body(Full::default()).unwrap();
    assert_eq!(connection.send(address, free).await.unwrap().status, 200);
    plan();
    let request = Request::get(path).body(Full::default()).unwrap();
    let page = tokio::select! {
        page = connection.send(address, request) => page.ok(),
        () = seller.holds.notified() => None,
    };
    drop(connection);
    let code = bursar.stop();
    assert!(code <= 0, "{path}: killed or done, but it exited with {code}");
    (page, code == 0)
}

/// A step without the parts that differ between runs: `write audit`, `write private/credentials`, `write seller`.
fn named(step: &Step, bursar: &Bursar, seller: &Hoarder) -> String {
    let Step { call, what } = step;
    let what = if what.ends_with(&format!(">{}", seller.origin.address.port())) {
        "seller"
    } else if what.starts_with(&format!("{}>", bursar.address.port())) {
        "agent"
    } else {
        let inside = what.strip_prefix(bursar.path().to_str().unwrap()).unwrap_or(what);
        inside
            .rsplit_once('/')
            .map_or(inside, |(folder, _)| folder.trim_start_matches('/'))
    };
    format!("{call} {what}")
}

/// The steps of a purchase. If one of them bypassed the C library, the kills below would miss it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_steps_of_a_purchase_are_seen_in_their_order() {
    let (seller, faults) = (hoarder().await, Faults::none());
    let mut bursar = home(&seller, 100).serve_by(faults.program());
    let (page, whole) = bought_under(&mut bursar, &seller, "/sells", || faults.watch()).await;
    assert!(whole && page.unwrap().status == 200);
    let steps: Vec<String> = faults
        .steps()
        .iter()
        .map(|step| named(step, &bursar, &seller))
        .collect();
    let mut rest = steps.iter();
    for expected in [
        "write seller",
        "write private",
        "write audit",
        "sync audit",
        "write private/credentials",
        "write seller",
        "write audit",
        "sync audit",
        "write agent",
        "write private/credentials",
        "write audit",
        "sync audit",
        "truncate audit",
        "unlink run",
    ] {
        assert!(
            rest.any(|step| step == expected),
            "no {expected:?} in its place: {steps:#?}"
        );
    }
    assert!(
        steps.contains(&"write index".to_owned()) && steps.contains(&"sync index".to_owned()),
        "{steps:#?}"
    );
}

/// A server that is killed, restarted and asked again, with its seller.
struct Story {
    seller: Hoarder,
    faults: Faults,
    bursar: Bursar,
}

/// The payments that could be presented again.
fn stored_credentials(home: &Home) -> Vec<String> {
    credentials::stored(home.path())
        .into_iter()
        .map(|stored| stored.id)
        .collect()
}

impl Story {
    const CENTS: u128 = 5_000;

    async fn begin() -> Self {
        let (seller, faults) = (hoarder().await, Faults::none());
        let bursar = home(&seller, Self::CENTS).serve_by(faults.program());
        Self { seller, faults, bursar }
    }

    /// One purchase under a plan, a start, and the agent's repeat. If a step was fatal, returns the last steps: it is
    /// among them, and other threads may have begun theirs before the kill.
    async fn run_case(&mut self, path: &str, when: &str, plan: impl FnOnce(&Faults)) -> Option<Vec<String>> {
        let Self { seller, faults, bursar } = self;
        seller.hostile.store(true, Ordering::SeqCst);
        let (page, whole) = bought_under(bursar, seller, path, || plan(faults)).await;
        let last = faults.steps();
        let last = last.iter().rev().take(8).map(|step| named(step, bursar, seller));
        let fell_at = (!whole).then(|| last.collect());
        faults.clear();
        seller.hostile.store(false, Ordering::SeqCst);

        let home = bursar.kill();
        let stored = stored_credentials(&home);
        *bursar = home.serve_by(faults.program());
        seller.agrees_with(&bursar.home, Self::CENTS * PRICE, when);
        let sent = seller.credentials_for(path);
        assert!(sent <= 1, "{when}: {sent} credentials for one request");
        if page.is_none_or(|page| page.status != 200) {
            let again = Agent::of(bursar).get(seller.origin.address, path).await;
            if again.status == 409 {
                // Recorded, but killed before the credential was stored: nothing can be presented, and nothing is paid
                // again.
                assert_eq!(
                    (again.problem().as_str(), sent),
                    ("payment-in-doubt", 0),
                    "{when}: {again:?}"
                );
                let id = again.json()["payment"].as_str().unwrap().to_owned();
                assert!(!stored.contains(&id), "{when}: {again:?}");
            } else {
                assert_eq!(again.status, 200, "{when}: {again:?}");
                let presented = seller.credentials_for(path);
                assert_eq!(presented, 1, "{when}: and then its agent asked again");
            }
            seller.agrees_with(&bursar.home, Self::CENTS * PRICE, when);
        }
        fell_at
    }

    fn end(mut self) {
        assert_eq!(self.bursar.stop(), 0);
        self.bursar.journal();
    }
}

/// Kills at the first step, the second, and so on, until a server completes with every kind of seller.
async fn killed_at_every_step(moment: Moment) {
    let mut story = Story::begin().await;
    let ways_at_a_step = if rounds(0) > 0 { WAYS.len() } else { 1 };
    let mut survivors = 0;
    for at in 1.. {
        assert!(at < TOO_MANY, "the purchase never ends");
        for turn in 0..ways_at_a_step {
            let way = WAYS[(at + moment as usize * 2 + turn) % WAYS.len()];
            let when = format!("killed {moment} step {at}, seller {way}");
            let fell_at = story
                .run_case(&format!("/{way}/{at}"), &when, |faults| faults.kill(at, moment))
                .await;
            survivors = if fell_at.is_none() { survivors + 1 } else { 0 };
        }
        if survivors >= WAYS.len() {
            break;
        }
    }
    story.end();
}

/// The most important steps, by name, so that they are hit whatever other steps come in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_step_of_paying() {
    let mut story = Story::begin().await;
    let seller = format!(">{}", story.seller.origin.address.port());
    for way in ["sells", "breaks-off"] {
        for (call, what, nth, name) in [
            ("write", "/private/seg-", 1, "write private"),
            ("write", "/audit/seg-", 1, "write audit"),
            ("sync", "/audit/seg-", 1, "sync audit"),
            ("write", "/private/credentials/", 1, "write private/credentials"),
            ("write", &seller, 2, "write seller"),
            ("write", "/audit/seg-", 2, "write audit"),
            ("sync", "/audit/seg-", 2, "sync audit"),
            ("write", "agent", 1, "write agent"),
            // The slot is zeroed.
            ("write", "/private/credentials/", 2, "write private/credentials"),
        ] {
            for moment in [Moment::Before, Moment::Half, Moment::After] {
                if (way, nth, name) == ("breaks-off", 2, "write private/credentials") {
                    continue; // It is not delivered, so it is kept.
                }
                let agent = format!("{}>", story.bursar.address.port());
                let what = if what == "agent" { &agent } else { what };
                let when = format!("killed {moment} {name} {nth}, seller {way}");
                let path = format!("/{way}/{nth}/{moment}/{}", name.replace(' ', "-"));
                let fell_at = story
                    .run_case(&path, &when, |faults| faults.kill_at(call, what, nth, moment))
                    .await;
                let fell_at: Vec<String> = fell_at.unwrap_or_default();
                assert!(fell_at.iter().any(|step| step == name), "{when}: {fell_at:?}");
            }
        }
    }
    story.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_step() {
    killed_at_every_step(Moment::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_every_step() {
    killed_at_every_step(Moment::Half).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_step() {
    killed_at_every_step(Moment::After).await;
}

/// Recovery is killed too: repeatedly, one step later each time, on the directory that the previous kill left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_of_the_start() {
    for moment in [Moment::Before, Moment::Half, Moment::After] {
        let (seller, faults) = (hoarder().await, Faults::none());
        let mut bursar = home(&seller, 1).serve();
        let agent = Agent::of(&bursar);
        let address = seller.origin.address;
        let asking = tokio::spawn(async move {
            let mut connection = agent.connect(address, &["http/1.1"]).await;
            connection
                .send(address, Request::get("/hangs").body(Full::default()).unwrap())
                .await
        });
        seller.holds.notified().await;
        let mut home = bursar.kill();
        assert!(asking.await.unwrap().is_err());
        seller.hostile.store(false, Ordering::SeqCst);
        let mut at = 0;
        let bursar = loop {
            at += 1;
            assert!(at < TOO_MANY, "the start never ends");
            faults.kill(at, moment);
            match home.try_serve_by(faults.program()) {
                Ok(mut bursar) => {
                    faults.clear();
                    // Background work during the first requests can still be hit, even by a step that read the plan
                    // before it was cleared; a command takes far longer than such a step.
                    bursar.payments();
                    if bursar.answers() {
                        break bursar;
                    }
                    home = bursar.kill();
                }
                Err((left, said)) => {
                    assert_eq!(said, "", "killed {moment} step {at} of the start");
                    home = left;
                }
            }
        };
        assert!(at > 20, "only {at} steps: the shim misses some");
        let when = format!("killed {moment} every step of the start");
        seller.agrees_with(&bursar.home, PRICE, &when);
        assert_eq!(bursar.states(), ["unknown"], "{when}");
        let again = Agent::of(&bursar).get(address, "/hangs").await;
        assert_eq!((again.status.as_u16(), seller.credentials().len()), (200, 1), "{when}");
        assert_eq!(Agent::of(&bursar).get(address, "/sells").await.problem(), "over-limit");
        bursar.journal();
    }
}

/// Random numbers that can be reproduced from their seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Agents that buy one thing after another until the limit is reached or the server is gone. The plan takes effect once
/// all are connected.
async fn buy_under(bursar: &Bursar, seller: &Hoarder, round: usize, plan: impl FnOnce()) {
    let address = seller.origin.address;
    let mut connections = Vec::new();
    for alpn in ["h2", "http/1.1"].into_iter().cycle().take(6) {
        connections.push(Agent::of(bursar).connect(address, &[alpn]).await);
    }
    plan();
    let mut buying = JoinSet::new();
    for (buyer, mut connection) in connections.into_iter().enumerate() {
        buying.spawn(async move {
            for number in 0.. {
                // A hanging agent would hold up the round.
                let way = ["sells", "asks-again", "fails", "cheats"][(buyer + number) % 4];
                let request = Request::get(format!("/{way}/{round}/{buyer}/{number}"));
                match connection.send(address, request.body(Full::default()).unwrap()).await {
                    Ok(page) if page.status != 403 => {}
                    _ => break,
                }
            }
        });
    }
    buying.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_at_a_cap_that_many_want_to_pass() {
    let seed =
        std::env::var("BURSAR_TEST_SEED").map_or_else(|_| getrandom::u64().unwrap(), |seed| seed.parse().unwrap());
    let mut dice = Dice(seed);
    let (seller, faults) = (hoarder().await, Faults::none());
    let mut cents = 0;
    let mut left = home(&seller, 1);
    for round in 0..rounds(10) {
        // Six agents together want more than the cap allows; each round raises the cap a little, even after the whole
        // cap was spent.
        cents += 1 + u128::from(dice.below(12));
        left.write_limits(&limits(cents));
        let (at, moment) = (
            1 + dice.below(120) as usize,
            [Moment::Before, Moment::Half, Moment::After][dice.below(3) as usize],
        );
        let when = format!("BURSAR_TEST_SEED={seed}, round {round}, killed {moment} step {at}");
        let mut bursar = left.serve_by(faults.program());
        seller.agrees_with(&bursar.home, cents * PRICE, &when);
        buy_under(&bursar, &seller, round, || faults.kill(at, moment)).await;
        bursar.stop();
        faults.clear();
        left = bursar.kill();
        seller.agrees_with(&left, cents * PRICE, &when);
    }
    let bursar = left.serve();
    seller.agrees_with(
        &bursar.home,
        cents * PRICE,
        &format!("BURSAR_TEST_SEED={seed}, at the end"),
    );
    let mut requests = HashMap::new();
    for path in seller.credentials().into_values() {
        *requests.entry(path).or_insert(0) += 1;
    }
    assert!(
        requests.values().all(|credentials| *credentials == 1),
        "BURSAR_TEST_SEED={seed}: {requests:?}"
    );
    assert!(!requests.is_empty());
    bursar.journal();
}
