//! Pauses: in force at once, on record soon, found again, and lifted only on record.

use std::sync::Arc;

use bursar_core::policy::PauseScope;
use bursar_ledger::journal::{Step, Verdict};
use bursar_ledger::memory::Memory;
use bursar_ledger::{Arming, Ledger, LedgerError, Outcome, Reason, Reserve, ReserveError, Source, State, read_pauses};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{FailAt, World};

const CAP: u128 = 100_000_000;

fn scope(text: &str) -> PauseScope {
    PauseScope::parse(text).unwrap()
}

fn arming(purchase: &Reserve) -> Arming {
    Arming {
        arm: purchase.arm.clone(),
        charges: purchase.hold.charges.clone(),
        approval: None,
    }
}

async fn pause(ledger: &dyn Ledger, text: &str) -> bool {
    let done = ledger.pause(scope(text), "uid:1".into(), "a test".into()).await;
    assert_eq!(done.unrecorded, None);
    done.is_new
}

async fn resume(ledger: &dyn Ledger, text: &str) -> bool {
    let lifted = ledger.resume(scope(text), "uid:2".into(), "it is over".into()).await;
    lifted.unwrap().is_some()
}

/// The scope that a reservation is refused for.
async fn refused_for(ledger: &dyn Ledger, purchase: Reserve) -> Option<String> {
    match ledger.reserve(purchase).await {
        Ok(_) => None,
        Err(ReserveError::Paused(pause)) => Some(pause.scope.to_string()),
        Err(error) => panic!("{error}"),
    }
}

fn scopes(ledger: &dyn Ledger) -> Vec<String> {
    let mut scopes: Vec<_> = ledger
        .pauses()
        .iter()
        .map(|(pause, _)| pause.scope.to_string())
        .collect();
    scopes.sort();
    scopes
}

async fn each(test: impl AsyncFn(&World, &dyn Ledger)) {
    let world = World::new();
    let memory = Memory::new(world.clock.clone(), Arc::new(|_| {}));
    test(&world, &memory).await;
    let world = World::new();
    let ledger = world.open();
    test(&world, &ledger).await;
    ledger.close().await;
}

#[tokio::test]
async fn what_a_pause_names_is_not_reserved_held_or_armed_and_the_rest_goes_on() {
    each(async |world, ledger| {
        let held = world.purchase(CAP);
        ledger.hold(held.hold.clone()).await.unwrap();
        for text in [
            "all",
            "agent:research",
            "group:eng",
            "merchant:api.example.com",
            "merchant:*.example.com",
        ] {
            assert!(pause(ledger, text).await, "{text}");
            assert_eq!(refused_for(ledger, world.purchase(CAP)).await.as_deref(), Some(text));
            let hold = ledger.hold(world.purchase(CAP).hold).await.unwrap_err();
            assert!(matches!(hold, ReserveError::Paused(_)), "{hold}");
            let arm = ledger.arm(held.hold.rid, arming(&held)).await.unwrap_err();
            assert!(matches!(arm, ReserveError::Paused(_)), "{arm}");
            let payment = ledger.get(held.hold.rid).await.unwrap().unwrap();
            assert_eq!(payment.state, State::Held, "what is held stays held");
            assert!(resume(ledger, text).await);
            assert!(!resume(ledger, text).await, "it is not paused any more");
            assert_eq!(refused_for(ledger, world.purchase(CAP)).await, None, "{text}");
        }
        for text in [
            "agent:other",
            "group:ops",
            "merchant:example.com",
            "merchant:*.api.example.com",
        ] {
            assert!(pause(ledger, text).await);
            assert_eq!(refused_for(ledger, world.purchase(CAP)).await, None, "{text}");
        }
        ledger.arm(held.hold.rid, arming(&held)).await.unwrap();
        // What is armed already ends as it would without a pause.
        assert!(pause(ledger, "all").await);
        let (by, why) = (Source::Us, Reason::Paused);
        ledger
            .finish(held.hold.rid, Outcome::Expired { by, why })
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn overlapping_pauses_are_lifted_one_by_one_and_the_first_of_a_scope_stands() {
    each(async |world, ledger| {
        assert!(pause(ledger, "agent:research").await);
        assert!(pause(ledger, "all").await);
        let again = ledger.pause(scope("all"), "uid:9".into(), "me too".into()).await;
        assert!(!again.is_new);
        assert_eq!((&*again.pause.who, &*again.pause.why), ("uid:1", "a test"));
        assert_eq!(
            refused_for(ledger, world.purchase(CAP)).await.as_deref(),
            Some("all"),
            "the widest"
        );
        assert!(resume(ledger, "all").await);
        assert_eq!(
            refused_for(ledger, world.purchase(CAP)).await.as_deref(),
            Some("agent:research")
        );
        assert_eq!(scopes(ledger), ["agent:research"]);
        assert!(resume(ledger, "agent:research").await);
        assert_eq!(refused_for(ledger, world.purchase(CAP)).await, None);
    })
    .await;
}

#[tokio::test]
async fn the_journal_says_who_and_why_and_each_start_finds_the_pause() {
    let world = World::new();
    let ledger = world.open();
    pause(&ledger, "merchant:*.example.com").await;
    pause(&ledger, "all").await;
    resume(&ledger, "all").await;
    ledger.close().await;
    assert_eq!((world.count("pause.set"), world.count("pause.lifted")), (2, 1));
    let journal = world.journal();
    let line = journal.lines().find(|line| line.contains("pause.lifted")).unwrap();
    let entry: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&entry["scope"], &entry["who"], &entry["why"]),
        (&"all".into(), &"uid:2".into(), &"it is over".into())
    );
    let read = read_pauses(world.path()).unwrap().read;
    assert_eq!(read.len(), 1);
    for index in ["kept", "deleted"] {
        if index == "deleted" {
            std::fs::remove_dir_all(world.path().join("index")).unwrap();
        }
        let ledger = world.open();
        assert_eq!(scopes(&ledger), ["merchant:*.example.com"], "index {index}");
        assert_eq!(ledger.pauses(), [(read[0].clone(), true)]);
        let paused = refused_for(&ledger, world.purchase(CAP)).await;
        assert_eq!(paused.as_deref(), Some("merchant:*.example.com"));
        ledger.close().await;
    }
}

#[tokio::test]
async fn a_disk_that_takes_nothing_cannot_prevent_a_pause_and_keeps_it_from_being_lifted() {
    for step in [Step::Write, Step::Sync] {
        let world = World::new();
        let faults = |nth| {
            let verdict = Verdict::Fail;
            Box::new(FailAt { step, nth, verdict })
        };
        // The start writes and syncs once.
        let ledger = world.open_with(|options| options.faults = Some(faults(2)));
        let done = ledger.pause(scope("all"), "uid:1".into(), "stop".into()).await;
        assert!(done.is_new && done.unrecorded.is_some(), "{done:?}");
        assert_eq!(ledger.pauses(), [(done.pause.clone(), false)]);
        assert_eq!(ledger.pause_on("research", None, "h.example"), Some(done.pause));
        assert!(matches!(
            ledger.resume(scope("all"), "uid:1".into(), "go".into()).await,
            Err(LedgerError::Failed(_))
        ));
        assert_eq!(scopes(&ledger), ["all"], "lifting is durable first");
        ledger.close().await;
    }
}

#[tokio::test]
async fn a_pause_is_in_force_before_anything_is_waited_for() {
    let world = World::new();
    let ledger = world.open();
    let pausing = ledger.pause(scope("all"), "uid:1".into(), "stop".into());
    assert!(
        ledger.pause_on("research", None, "h.example").is_some(),
        "not polled yet"
    );
    drop(pausing);
    assert_eq!(refused_for(&ledger, world.purchase(CAP)).await.as_deref(), Some("all"));
    ledger.close().await;
    assert_eq!(
        world.count("pause.set"),
        1,
        "recorded with the next batch, although its caller has gone"
    );
}

#[derive(Clone, Debug)]
enum Act {
    Pause(usize),
    Resume(usize),
    Reserve,
    Hold,
    Arm,
    Restart { index: bool },
}

/// Whatever is done in whatever order: pauses are those of a simple model, also after a restart, and in the journal no
/// payment is reserved or armed while it is paused.
#[test]
fn between_a_pause_and_its_end_no_payment_in_its_scope_begins() {
    const SCOPES: [&str; 4] = ["all", "agent:research", "group:ops", "merchant:*.example.com"];
    let act = prop_oneof![
        2 => (0..SCOPES.len()).prop_map(Act::Pause),
        3 => (0..SCOPES.len()).prop_map(Act::Resume),
        3 => Just(Act::Reserve),
        2 => Just(Act::Hold),
        2 => Just(Act::Arm),
        1 => any::<bool>().prop_map(|index| Act::Restart { index }),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config::with_cases(24));
    let acts = prop::collection::vec(act, 1..40);
    let run = |acts: Vec<Act>| runtime.block_on(follow(&SCOPES, acts));
    runner
        .run(&acts, |acts| {
            run(acts);
            Ok(())
        })
        .unwrap();
}

async fn follow(all: &[&str], acts: Vec<Act>) {
    let world = World::new();
    let mut ledger = world.open();
    let (mut model, mut held) = (std::collections::BTreeSet::new(), Vec::new());
    for act in acts {
        let stops = |model: &std::collections::BTreeSet<&str>| model.iter().any(|scope| *scope != "group:ops");
        match act {
            Act::Pause(at) => assert_eq!(pause(&ledger, all[at]).await, model.insert(all[at])),
            Act::Resume(at) => assert_eq!(resume(&ledger, all[at]).await, model.remove(all[at])),
            Act::Reserve => {
                let refused = refused_for(&ledger, world.purchase(CAP)).await;
                assert_eq!(refused.is_some(), stops(&model));
            }
            Act::Hold => {
                let purchase = world.purchase(CAP);
                let result = ledger.hold(purchase.hold.clone()).await;
                assert_eq!(result.is_err(), stops(&model));
                held.extend(result.ok().map(|()| purchase));
            }
            Act::Arm => {
                if let Some(purchase) = held.pop() {
                    let armed = ledger.arm(purchase.hold.rid, arming(&purchase)).await;
                    assert_eq!(armed.is_err(), stops(&model));
                }
            }
            Act::Restart { index } => {
                ledger.close().await;
                // Held money that nobody was asked about is released by a start.
                held.clear();
                if !index {
                    std::fs::remove_dir_all(world.path().join("index")).unwrap();
                }
                ledger = world.open();
            }
        }
        assert_eq!(scopes(&ledger), model.iter().copied().collect::<Vec<_>>());
    }
    ledger.close().await;
    let mut paused = std::collections::BTreeSet::new();
    for line in world.journal().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let scope = || entry["scope"].as_str().unwrap().to_owned();
        match entry["ev"].as_str().unwrap() {
            "pause.set" => assert!(paused.insert(scope())),
            "pause.lifted" => assert!(paused.remove(&scope())),
            "pay.reserved" | "pay.armed" => {
                let stopped: Vec<_> = paused.iter().filter(|scope| *scope != "group:ops").collect();
                assert!(stopped.is_empty(), "{line} while {stopped:?}");
            }
            _ => {}
        }
    }
}
