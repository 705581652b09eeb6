//! Questions over a ledger in memory, with random bytes of the test: what their codes are, when an approval is not taken up
//! again, and which bounds are reported.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::operator::{NotTaken, Operator};
use crate::testing::{offer, question_about};
use crate::{Notified, Reply};
use bursar_core::approval::Code;
use bursar_core::clock::ManualClock;
use bursar_core::money::MicroUsd;
use bursar_ledger::memory::Memory;
use bursar_ledger::{State as Payment, Terms};

/// What the questions reported.
#[derive(Default)]
struct Reports(Mutex<Vec<Bound>>);

impl Notifier for Reports {
    fn notify<'a>(&'a self, _: &'a Question, _: Timestamp) -> Reply<'a, Notified> {
        Box::pin(async { Notified::ByNone })
    }

    fn bounded(&self, bound: &Bound) {
        self.0.lock().unwrap().push(bound.clone());
    }
}

struct World {
    folder: tempfile::TempDir,
    ledger: Arc<Memory>,
    clock: Arc<ManualClock>,
    reports: Arc<Reports>,
    stop: CancellationToken,
    payments: AtomicU8,
}

/// A proxy on this world. Its codes are made of 1, 2, 3 and so on.
struct Proxy {
    questions: Questions,
    operator: Arc<Operator>,
}

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn world() -> World {
    let clock = Arc::new(ManualClock::at(now()));
    World {
        folder: tempfile::tempdir().unwrap(),
        ledger: Arc::new(Memory::new(clock.clone(), Arc::new(|_| {}))),
        clock,
        reports: Arc::default(),
        stop: CancellationToken::new(),
        payments: AtomicU8::new(0),
    }
}

impl World {
    fn proxy(&self, randomness: Randomness) -> Proxy {
        let operator = Arc::new(Operator::new(self.clock.clone()));
        let services = Services {
            folder: self.folder.path().to_owned(),
            ledger: self.ledger.clone(),
            notifier: self.reports.clone(),
            randomness,
            clock: self.clock.clone(),
            tasks: TaskTracker::new(),
            stop: self.stop.clone(),
        };
        Proxy {
            questions: Questions::new(Asks::Operator(operator.clone()), Settings::default(), services),
            operator,
        }
    }

    /// The purchase of `path` by `agent`; two with the same path have the same intent.
    fn wanted(&self, agent: &str, path: &str) -> Wanted {
        let offer = offer();
        let number = self.payments.fetch_add(1, Ordering::SeqCst);
        let resource = format!("https://api.example.com{path}");
        let asked = bursar_core::approval::intent::Asked {
            agent,
            approver: "operator",
            host: "api.example.com",
            method: "GET",
            resource: &resource,
            body_sha256: None,
        };
        Wanted {
            hold: Hold {
                rid: PaymentId::new(now(), [number; 10]),
                agent: agent.to_owned(),
                group: None,
                host: "api.example.com".to_owned(),
                origin: None,
                path: path.to_owned(),
                query: None,
                terms: Terms {
                    rail: offer.rail,
                    asset: offer.asset,
                    amount: offer.amount,
                    usd: MicroUsd::new(12_500_000),
                    payee: offer.payee.clone(),
                    clause: offer.clause,
                },
                charges: Vec::new(),
                policy_gen: 0,
                fingerprint: [number; 32],
                idempotency: None,
                offer_sha256: offer.sha256,
                others: Vec::new(),
            },
            intent: ApprovalIntent::of(&asked, &offer),
            approvers: Approvers {
                names: vec!["operator".to_owned()],
                needed: 1,
                owners: Vec::new(),
            },
            rules: vec!["agents.research.approval_above".to_owned()],
        }
    }

    async fn state(&self, id: PaymentId) -> Payment {
        self.ledger.get(id).await.unwrap().unwrap().state
    }
}

fn counting() -> Randomness {
    let next = AtomicU8::new(1);
    Randomness::of(move || Some([next.fetch_add(1, Ordering::SeqCst); 21]))
}

impl Proxy {
    async fn asked(&self, wanted: Wanted) -> Wait {
        let Ok(mut wait) = self.questions.ask(wanted) else {
            panic!("not asked")
        };
        assert!(wait.decided(Duration::ZERO).await.is_none());
        wait
    }

    fn code(&self, id: PaymentId) -> String {
        let pending = self.questions.pending();
        pending.into_iter().find(|one| one.id == id).unwrap().code
    }
}

#[tokio::test]
async fn the_same_purchase_asked_again_has_another_code_and_neither_follows_from_it() {
    let world = world();
    let proxy = world.proxy(counting());
    let first = proxy.asked(world.wanted("research", "/report")).await;
    let code = proxy.code(first.id());
    assert_eq!(code, Code::of([1; 5]).to_string());
    let pending = proxy.questions.pending();
    assert!(pending[0].sentence.ends_with(&format!("#{code}")), "{pending:?}");
    let denied = proxy.questions.deny(first.id(), "no".to_owned(), "uid:0".to_owned());
    denied.await.unwrap();

    world.clock.set(now() + SignedDuration::from_secs(600));
    let wanted = world.wanted("research", "/report");
    let derived = wanted.intent.derived_code().to_string();
    let second = proxy.asked(wanted).await;
    assert_ne!(second.id(), first.id());
    let other = proxy.code(second.id());
    assert_eq!(other, Code::of([2; 5]).to_string());
    // What an agent can compute from the 402, and what it saw before, approve nothing.
    for wrong in [&derived, &code] {
        let refused = proxy.operator.approve(second.id(), wrong, "uid:0".to_owned());
        assert_eq!(refused, Err(NotTaken::WrongCode(second.id())));
    }
    proxy.operator.approve(second.id(), &other, "uid:0".to_owned()).unwrap();
}

#[tokio::test]
async fn the_ledger_commits_to_the_code_and_does_not_contain_it() {
    let world = world();
    let proxy = world.proxy(counting());
    let wait = proxy.asked(world.wanted("research", "/report")).await;
    let stored = read(world.folder.path(), wait.id()).unwrap();
    let disclosure = stored.asks[0].disclosure.clone().unwrap();
    let known = world.ledger.approvals().await.unwrap().live;
    assert_eq!(known[0].sd, [disclosure.digest()]);
    assert_eq!(known[0].rules, ["agents.research.approval_above"]);
    assert!(!format!("{known:?}").contains(&stored.asks[0].code));
    // A code without its salt is not a commitment that could be guessed from the 2^40 codes.
    let unsalted = Disclosure::new([0; 16], "code of operator", &stored.asks[0].code);
    assert_ne!(unsalted.digest(), known[0].sd[0]);
}

#[tokio::test]
async fn without_random_bytes_nobody_is_asked_and_nothing_is_held() {
    let world = world();
    let proxy = world.proxy(Randomness::of(|| None));
    assert!(matches!(
        proxy.questions.ask(world.wanted("research", "/report")),
        Err(NotAsked::NoCode)
    ));
    assert!(world.ledger.approvals().await.unwrap().live.is_empty());
    assert!(proxy.questions.pending().is_empty());
}

/// The question goes on after a restart, with the same code; not so if somebody has changed its code or its rules on disk.
#[tokio::test]
async fn a_restart_takes_up_what_the_ledger_knows_and_nothing_else() {
    type Change = fn(&mut StoredQuestion);
    let unchanged: Change = |_| {};
    let code: Change = |stored| stored.asks[0].code = "00000000".to_owned();
    let uncommitted: Change = |stored| stored.asks[0].disclosure = None;
    let rules: Change = |stored| stored.rules.push("account.total".to_owned());
    for (name, change, goes_on) in [
        ("unchanged", unchanged, true),
        ("code", code, false),
        ("uncommitted", uncommitted, false),
        ("rules", rules, false),
    ] {
        let world = world();
        let wait = world.proxy(counting()).asked(world.wanted("research", "/report")).await;
        let mut stored = read(world.folder.path(), wait.id()).unwrap();
        change(&mut stored);
        stored.write(world.folder.path()).unwrap();
        let again = world.proxy(counting());
        again.questions.resume().await.unwrap();
        let pending = again.questions.pending();
        assert_eq!(!pending.is_empty(), goes_on, "{name}");
        let state = match goes_on {
            true => Payment::Held,
            false => Payment::Released,
        };
        assert_eq!(world.state(wait.id()).await, state, "{name}");
        if goes_on {
            assert_eq!(pending[0].code, stored.asks[0].code);
        }
    }
}

#[tokio::test]
async fn each_bound_that_an_agent_reaches_is_reported() {
    let world = world();
    let proxy = world.proxy(counting());
    let refused = |agent: &str, path: &str| match proxy.questions.ask(world.wanted(agent, path)) {
        Err(NotAsked::Bounded { bound, .. }) => bound,
        _ => panic!("asked"),
    };
    for path in ["/1", "/2", "/3"] {
        proxy.asked(world.wanted("research", path)).await;
    }
    let agent = "research".to_owned();
    let own = Bound::OfAgent { agent, open: 3 };
    assert_eq!(refused("research", "/4"), own);
    for path in ["/1", "/2"] {
        proxy.asked(world.wanted("writer", path)).await;
    }
    let (approver, agent) = ("operator".to_owned(), "writer".to_owned());
    let people = Bound::OfApprover {
        approver,
        agent,
        open: 5,
    };
    assert_eq!(refused("writer", "/3"), people);
    assert_eq!(*world.reports.0.lock().unwrap(), [own, people]);
    // A question that is joined is not one more.
    proxy.asked(world.wanted("research", "/1")).await;
    assert_eq!(world.reports.0.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_known_about_a_question_names_its_rules() {
    let world = world();
    let proxy = world.proxy(counting());
    let wanted = world.wanted("research", "/report");
    let intent = wanted.intent.clone();
    assert_eq!(proxy.questions.known("research", &intent), None);
    proxy.asked(wanted).await;
    let rules = vec!["agents.research.approval_above".to_owned()];
    assert_eq!(proxy.questions.known("research", &intent), Some(Known::Open { rules }));
    let other = question_about(&offer()).intent;
    assert_eq!(proxy.questions.known("research", &other), None);
}
