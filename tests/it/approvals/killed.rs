//! The process is killed at every step from a question to its payment: no credential is sent twice, and whatever may
//! have been sent counts (R44 and R45).

use http::Request;

use crate::approvals::{AT_ONCE, approve, at_ten_cents, pending, question};
use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, setup};
use crate::support::faults::{Faults, Moment};
use crate::support::origin::Origin;

/// The phase in which the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ask,
    Approve,
    Pay,
}

/// More steps than any phase takes.
const TOO_MANY: usize = 200;

async fn killed_at_every_step_of(phase: Phase) {
    let origin = at_ten_cents().await;
    for step in 1..TOO_MANY {
        if !killed_once(&origin, phase, step).await {
            assert!(step > 3, "{phase:?} has hardly any steps, so little was tried");
            return;
        }
    }
    panic!("{phase:?} does not come to an end");
}

/// Returns whether the process died at this step. In any case at most one credential was sent, and it counts.
async fn killed_once(origin: &Origin, phase: Phase, step: usize) -> bool {
    let when = format!("killed at step {step} of {phase:?}");
    let path = format!("/{phase:?}/{step}");
    let faults = Faults::none();
    // Room for one and a half payments: if the first were forgotten, a second one would pass.
    let limits = "[agents.research]\ntotal = \"0.15\"\napproval_above = \"0.05\"\n";
    let home = setup().trust(&origin.ca_pem).limits(limits).config(AT_ONCE).home();
    let mut bursar = home.serve_by(faults.program());
    let fatal = |now: Phase| {
        if now == phase {
            faults.kill(step, Moment::After);
        }
    };
    let get = async |bursar: &Bursar| {
        let agent = Agent::of(bursar);
        let mut connection = agent.connect(origin.address, &["http/1.1"]).await;
        let request = Request::get(&path).body(http_body_util::Full::default()).unwrap();
        connection.send(origin.address, request).await
    };
    // Connect first, so that connecting is not among the counted steps.
    let agent = Agent::of(&bursar);
    let mut connection = agent.connect(origin.address, &["http/1.1"]).await;
    let request = || Request::get(&path).body(http_body_util::Full::default()).unwrap();
    let mut delivered = false;
    fatal(Phase::Ask);
    let _ = connection.send(origin.address, request()).await;
    if phase != Phase::Ask {
        let (id, code) = question(&bursar).await;
        fatal(Phase::Approve);
        bursar.run(&["approve", &id, "--code", &code]);
        if phase == Phase::Pay {
            fatal(Phase::Pay);
            let sent = connection.send(origin.address, request()).await;
            delivered = sent.is_ok_and(|page| page.status == 200);
        }
    }
    drop(connection);
    faults.clear();
    let died = faults.steps().len() >= step;
    let bursar = match died {
        true => {
            assert!(bursar.ended() < 0, "{when}: it came to an orderly end");
            bursar.kill().serve()
        }
        false => bursar,
    };

    // The agent keeps asking, and the operator approves what waits.
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let Ok(page) = get(&bursar).await else {
            panic!("{when}: no answer");
        };
        match page.status.as_u16() {
            200 | 409 => {
                statuses.push(page.status.as_u16());
                break;
            }
            503 => statuses.push(503),
            // What was delivered before is not bought again, because the budget is used up.
            403 if delivered => {
                statuses.push(200);
                break;
            }
            other => panic!("{when}: {other} {}", page.problem()),
        }
        if let Some(open) = pending(&bursar).first()
            && open["state"] == "open"
        {
            approve(&bursar, open["id"].as_str().unwrap(), open["code"].as_str().unwrap());
        }
    }
    let sent: std::collections::HashSet<_> = origin
        .seen()
        .into_iter()
        .filter(|seen| seen.target == path)
        .filter_map(|seen| seen.payment())
        .collect();
    // 409: the payment was armed, but its credential was not stored. Nothing is signed a second time.
    let ended = statuses.last().copied();
    assert!(matches!(ended, Some(200 | 409)), "{when}: {statuses:?}");
    assert!(sent.len() <= 1, "{when}: {} credentials", sent.len());
    assert_eq!(sent.len() == 1, ended == Some(200), "{when}");
    let page = Agent::of(&bursar).get(origin.address, "/another").await;
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (403, "over-limit".to_owned()),
        "{when}"
    );
    let counted = bursar
        .payments()
        .iter()
        .filter(|payment| payment["state"] != "released")
        .count();
    assert_eq!(counted, 1, "{when}: {:?}", bursar.payments());
    died
}

#[tokio::test]
async fn a_kill_at_any_step_of_asking_loses_no_money() {
    killed_at_every_step_of(Phase::Ask).await;
}

#[tokio::test]
async fn a_kill_at_any_step_of_approving_loses_no_money() {
    killed_at_every_step_of(Phase::Approve).await;
}

#[tokio::test]
async fn a_kill_at_any_step_of_paying_what_was_approved_loses_no_money() {
    killed_at_every_step_of(Phase::Pay).await;
}
