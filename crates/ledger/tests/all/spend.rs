//! What was spent on whom: the sums are those of the counters, however the payments ended and whenever the process died.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use bursar_core::challenge::Rail;
use bursar_core::money::{Atoms, MicroUsd};
use bursar_core::policy::budget::{Charge, Excess, Unit, Window};
use bursar_ledger::spend::{By, SpendQuestion, Spending, Sums, read_spending};
use bursar_ledger::{
    Comparison, Finding, Hold, Ledger, Outcome, Payment, PaymentId, Reason, Reserve, Resolution, Source, Standing,
    State,
};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use crate::world::{NOON, World};

const AGENTS: [(&str, &str); 3] = [("research", "eng"), ("writer", "eng"), ("buyer", "shop")];
const HOSTS: [&str; 3] = ["api.example.com", "www.api.example.com", "other.example"];

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

fn asked(by: &[By]) -> SpendQuestion {
    SpendQuestion {
        by: by.to_vec(),
        since: None,
        until: None,
        agent: None,
        merchant: None,
        zone: berlin(),
    }
}

fn spent(world: &World, question: &SpendQuestion) -> Spending {
    let compared = read_spending(world.path(), question).unwrap();
    assert_eq!(compared.comparison, Comparison::Matches);
    compared.read
}

/// Charges as limits make them: the day in Berlin, and everything, for the agent and for the account.
fn charges(agent: &str, micros: u128, now: Timestamp) -> Vec<Charge> {
    let day = now.to_zoned(berlin()).date().to_zoned(berlin()).unwrap().to_string();
    let agent = format!("agent:{agent}");
    let one = |scope: &str, window, unit, start: &str| Charge {
        scope: scope.into(),
        window,
        unit,
        start: start.into(),
        ends: None,
        amount: match unit {
            Unit::MicroUsd => micros,
            Unit::Payments => 1,
        },
        cap: u128::MAX,
        was: None,
        rule: "account.day".into(),
        excess: Excess::Denied,
    };
    vec![
        one("account", Window::Day, Unit::MicroUsd, &day),
        one("account", Window::Total, Unit::MicroUsd, "0"),
        one("account", Window::Total, Unit::Payments, "0"),
        one(&agent, Window::Day, Unit::MicroUsd, &day),
        one(&agent, Window::Total, Unit::MicroUsd, "0"),
    ]
}

/// One purchase, made now.
fn purchase(world: &World, agent: usize, host: usize, cents: u64, now: Timestamp) -> Reserve {
    let micros = u128::from(cents) * 10_000;
    let (agent, group) = AGENTS[agent % AGENTS.len()];
    let mut reserve = world.charged(charges(agent, micros, now));
    let random = reserve.hold.rid.bytes()[6..].try_into().unwrap();
    reserve.hold = Hold {
        rid: PaymentId::new(now, random),
        agent: agent.into(),
        group: Some(group.into()),
        host: HOSTS[host % HOSTS.len()].into(),
        ..reserve.hold
    };
    // The rail of which a part can be taken.
    reserve.hold.terms.rail = Rail::X402UpTo;
    reserve.hold.terms.amount = Atoms::new(micros);
    reserve.hold.terms.usd = MicroUsd::new(micros);
    reserve.hold.terms.payee = Address::repeat_byte(u8::try_from(host % HOSTS.len()).unwrap()).into();
    reserve.arm.valid_before = u64::MAX >> 2;
    reserve
}

#[derive(Clone, Debug)]
enum Step {
    Reserve {
        agent: usize,
        host: usize,
        cents: u64,
    },
    Hold {
        agent: usize,
        host: usize,
        cents: u64,
    },
    /// Of the held payments, the one of this number.
    Arm(usize),
    Settle(usize),
    Take(usize, u64),
    Unknown(usize),
    Expire(usize),
    Release(usize),
    Resolve(usize),
    Confirm(usize, u64),
    Wait {
        minutes: i64,
    },
    /// The process dies, and another one goes on.
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    let buy = || (0..3usize, 0..3usize, 1..500u64);
    prop_oneof![
        5 => buy().prop_map(|(agent, host, cents)| Step::Reserve { agent, host, cents }),
        2 => buy().prop_map(|(agent, host, cents)| Step::Hold { agent, host, cents }),
        2 => any::<usize>().prop_map(Step::Arm),
        3 => any::<usize>().prop_map(Step::Settle),
        2 => (any::<usize>(), 0..500u64).prop_map(|(of, cents)| Step::Take(of, cents)),
        2 => any::<usize>().prop_map(Step::Unknown),
        1 => any::<usize>().prop_map(Step::Expire),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Resolve),
        2 => (any::<usize>(), 0..500u64).prop_map(|(of, cents)| Step::Confirm(of, cents)),
        3 => (1..900i64).prop_map(|minutes| Step::Wait { minutes }),
        1 => Just(Step::Die),
    ]
}

/// The open payment of this number, if it is in one of these states.
async fn one_of(ledger: &dyn Ledger, states: &[State], number: usize) -> Option<Payment> {
    let open = ledger.open_items().await.unwrap();
    let fitting: Vec<Payment> = open
        .into_iter()
        .filter(|payment| states.contains(&payment.state))
        .collect();
    (!fitting.is_empty()).then(|| fitting[number % fitting.len()].clone())
}

async fn perform(world: &World, ledger: &dyn Ledger, step: &Step) {
    let now = ledger.now();
    let signed = [State::Armed, State::Unknown];
    match *step {
        Step::Reserve { agent, host, cents } => {
            drop(ledger.reserve(purchase(world, agent, host, cents, now)).await.unwrap());
        }
        Step::Hold { agent, host, cents } => {
            ledger
                .hold(purchase(world, agent, host, cents, now).hold)
                .await
                .unwrap();
        }
        Step::Arm(number) => {
            if let Some(held) = one_of(ledger, &[State::Held], number).await {
                let other = world.purchase(0);
                let arming = bursar_ledger::Arming {
                    arm: other.arm,
                    charges: charges(&held.reserved.agent, held.reserved.usd_micros.0, now),
                    approval: None,
                };
                drop(ledger.arm(held.rid(), arming).await.unwrap());
            }
        }
        Step::Settle(number) => {
            if let Some(payment) = one_of(ledger, &signed, number).await {
                let by = Source::Merchant;
                ledger
                    .finish(payment.rid(), Outcome::Settled { by, tx: None })
                    .await
                    .unwrap();
            }
        }
        Step::Take(number, cents) => {
            if let Some(payment) = one_of(ledger, &signed, number).await {
                let taken = Atoms::new((u128::from(cents) * 10_000).min(payment.reserved.amount.0));
                let (by, tx) = (Source::Chain, None);
                ledger
                    .finish(payment.rid(), Outcome::Taken { by, tx, taken })
                    .await
                    .unwrap();
            }
        }
        Step::Unknown(number) => {
            if let Some(payment) = one_of(ledger, &[State::Armed], number).await {
                let why = Reason::AnswerLost;
                ledger
                    .finish(payment.rid(), Outcome::Unknown { why, tx: None })
                    .await
                    .unwrap();
            }
        }
        Step::Expire(number) => {
            if let Some(payment) = one_of(ledger, &signed, number).await {
                let (by, why) = (Source::Chain, Reason::NeverCashed);
                ledger
                    .finish(payment.rid(), Outcome::Expired { by, why })
                    .await
                    .unwrap();
            }
        }
        Step::Release(number) => {
            if let Some(payment) = one_of(ledger, &[State::Held], number).await {
                let why = Reason::ApprovalDenied;
                ledger.finish(payment.rid(), Outcome::Released { why }).await.unwrap();
            }
        }
        Step::Resolve(number) => {
            if let Some(payment) = one_of(ledger, &[State::Unknown], number).await {
                let resolution = match number % 2 {
                    0 => Resolution::Expired,
                    _ => Resolution::Settled { tx: None },
                };
                let (who, why) = ("uid:0".to_owned(), "the seller said so".to_owned());
                ledger.resolve(payment.rid(), resolution, who, why).await.unwrap();
            }
        }
        Step::Confirm(number, cents) => {
            let waiting = ledger.unconfirmed().await.unwrap();
            if let Some(rid) = (!waiting.is_empty()).then(|| waiting[number % waiting.len()]) {
                let of = ledger.get(rid).await.unwrap().unwrap();
                let taken = Atoms::new((u128::from(cents) * 10_000).min(of.reserved.amount.0));
                let finding = Finding::Taken {
                    by: Source::Chain,
                    tx: None,
                    block: None,
                    taken,
                    of: Box::new(of),
                };
                ledger.record_finding(rid, finding).await.unwrap();
            }
        }
        Step::Wait { minutes } => {
            world.clock.set(now + SignedDuration::from_mins(minutes));
        }
        Step::Die => {}
    }
}

/// What `limits show` prints of the account: settled, held, armed, unknown.
async fn standing(ledger: &dyn Ledger, charge: &Charge) -> Sums {
    let charges = [charge.clone()];
    let standing = Standing::ask(ledger, &charges).await.unwrap();
    let (counted, open) = (standing.counted(charge).unwrap(), standing.open(charge).unwrap());
    assert_eq!(counted.open, open.held + open.armed + open.unknown);
    Sums {
        settled: counted.settled,
        held: open.held,
        armed: open.armed,
        unknown: open.unknown,
        ..Sums::default()
    }
}

fn without_returned(sums: Sums) -> Sums {
    Sums {
        returned: 0,
        count: 0,
        ..sums
    }
}

/// Everything that `usage` says about a scope's windows of this name, by the date on which they begin.
async fn counters(ledger: &dyn Ledger, scope: &str, window: &str) -> BTreeMap<String, u128> {
    let usage = ledger.usage(&[scope]).await.unwrap();
    let rows = usage.into_iter().filter(|row| row.window == window);
    let day = |start: &str| start.get(..10).unwrap_or(start).to_owned();
    rows.map(|row| (day(&row.start), row.settled + row.open))
        .filter(|(_, sum)| *sum > 0)
        .collect()
}

fn counts(sums: &Sums) -> u128 {
    sums.settled + sums.outstanding() + sums.held
}

fn by_key(spending: &Spending) -> BTreeMap<String, u128> {
    let rows = spending.rows.iter().map(|row| (row.key.join(" "), counts(&row.sums)));
    rows.filter(|(_, sum)| *sum > 0).collect()
}

async fn compare(world: &World, ledger: &dyn Ledger) {
    let now = ledger.now();
    let account = charges("research", 0, now);
    let all = spent(world, &asked(&[]));
    assert_eq!(without_returned(all.total), standing(ledger, &account[1]).await);
    let payments = counters(ledger, "account", "count.total").await;
    assert_eq!(u128::from(all.total.count), payments.values().sum::<u128>());
    // Each day, of the account and of each agent.
    let days = spent(world, &asked(&[By::Day]));
    assert_eq!(by_key(&days), counters(ledger, "account", "day").await);
    for (agent, _) in AGENTS {
        let of_agent = SpendQuestion {
            agent: Some(agent.to_owned()),
            ..asked(&[By::Day])
        };
        assert_eq!(
            by_key(&spent(world, &of_agent)),
            counters(ledger, &format!("agent:{agent}"), "day").await
        );
    }
    // However it is cut, it is the same money.
    for by in By::ALL {
        let cut = spent(world, &asked(&[by, By::Agent]));
        assert_eq!(cut.total, all.total, "{by:?}");
        let sum: u128 = cut.rows.iter().map(|row| counts(&row.sums) + row.sums.returned).sum();
        assert_eq!(sum, counts(&all.total) + all.total.returned, "{by:?}");
    }
    // Before an instant and since it: nothing is lost, and nothing counts twice.
    let half = NOON.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(20);
    let before = SpendQuestion {
        until: Some(half),
        ..asked(&[])
    };
    let since = SpendQuestion {
        since: Some(half),
        ..asked(&[])
    };
    let (before, since) = (spent(world, &before).total, spent(world, &since).total);
    assert_eq!(counts(&before) + counts(&since), counts(&all.total));
    assert_eq!(before.count + since.count, all.total.count);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn sums_are_what_the_counters_say(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let mut ledger = world.open();
            for step in &steps {
                perform(&world, &ledger, step).await;
                if matches!(step, Step::Die) {
                    ledger.close().await;
                    // As after a lost disk: the counters come from the journal alone.
                    let _ = std::fs::remove_dir_all(world.path().join("index"));
                    ledger = world.open();
                }
            }
            compare(&world, &ledger).await;
            ledger.close().await;
        });
    }
}
