//! Limits, windows and counters together, compared with a model without counters: it keeps every payment and goes
//! through all of them each time. The times include both clock changes of a year.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use proptest::prelude::*;

use super::*;
use bursar_ledger::Spending;
use bursar_ledger::counters::{Counters, Step};
use bursar_ledger::entry::WindowCharge;
use bursar_ledger::text::Decimal;

const LIMITS: &str = r#"
timezone = "Europe/Berlin"
[account]
month = "6.00"
week = "3.00"
[groups.eng]
day = "1.20"
count = { hour = 6 }
rolling = { "2h" = "0.80" }
[agents.research]
group = "eng"
hour = "0.60"
day = "0.90"
max_pending = "0.50"
[agents.writer]
group = "eng"
rolling = { "24h" = "1.00", "30m" = "0.40" }
count = { day = 9, total = 60 }
"#;

const AGENTS: [&str; 2] = ["research", "writer"];

#[derive(Clone, Copy, PartialEq)]
enum End {
    Open,
    Settled,
    Dead,
}

struct Paid {
    agent: usize,
    at: Timestamp,
    cents: u32,
    end: End,
}

/// All payments so far, and whether one more fits every limit.
struct Model {
    paid: Vec<Paid>,
    zone: TimeZone,
}

impl Model {
    fn sum(&self, counts: impl Fn(&Paid) -> bool) -> u32 {
        let counted = self.paid.iter().filter(|paid| paid.end != End::Dead && counts(paid));
        counted.map(|paid| paid.cents).sum()
    }

    fn number(&self, counts: impl Fn(&Paid) -> bool) -> usize {
        let counted = self.paid.iter().filter(|paid| paid.end != End::Dead && counts(paid));
        counted.count()
    }

    fn local(&self, at: Timestamp) -> Zoned {
        at.to_zoned(self.zone.clone())
    }

    fn allows(&self, agent: usize, now: Timestamp, cents: u32) -> bool {
        let here = self.local(now);
        let same_hour = |paid: &Paid| {
            let then = self.local(paid.at);
            (then.date(), then.hour(), then.offset()) == (here.date(), here.hour(), here.offset())
        };
        let same_day = |paid: &Paid| self.local(paid.at).date() == here.date();
        let same_week = |paid: &Paid| {
            let (then, now) = (self.local(paid.at).date().iso_week_date(), here.date().iso_week_date());
            (then.year(), then.week()) == (now.year(), now.week())
        };
        let same_month = |paid: &Paid| self.local(paid.at).date().first_of_month() == here.date().first_of_month();
        let within = |minutes: i64| {
            let bucket = minutes;
            move |paid: &Paid| paid.at.as_second() / bucket >= now.as_second() / bucket - 60
        };
        let mine = |paid: &Paid| paid.agent == agent;

        let account = self.sum(same_month) + cents <= 600 && self.sum(same_week) + cents <= 300;
        let group =
            self.sum(same_day) + cents <= 120 && self.number(same_hour) < 6 && self.sum(within(120)) + cents <= 80;
        let own = match agent {
            0 => {
                self.sum(|paid| mine(paid) && same_hour(paid)) + cents <= 60
                    && self.sum(|paid| mine(paid) && same_day(paid)) + cents <= 90
                    && self.sum(|paid| mine(paid) && paid.end == End::Open) + cents <= 50
            }
            _ => {
                let (day, half_hour) = (within(24 * 60), within(30));
                self.sum(|paid| mine(paid) && day(paid)) + cents <= 100
                    && self.sum(|paid| mine(paid) && half_hour(paid)) + cents <= 40
                    && self.number(|paid| mine(paid) && same_day(paid)) < 9
                    && self.number(mine) < 60
            }
        };
        account && group && own
    }
}

fn charged(limits: &Limits, agent: usize, now: Timestamp, cents: u32) -> Vec<Charge> {
    let purchase = Purchase {
        agent: AGENTS[agent],
        merchant: "api.example.com",
        method: &Method::GET,
        now,
        approvals: Approvals::None,
        over: &[],
    };
    match choose(limits, &purchase, &[bid(cents)]) {
        Decision::Pay(plan) => plan.charges,
        Decision::Refuse(refusal) => panic!("{}", refusal.detail),
        Decision::Unpaid(unpaid) => panic!("{}", unpaid.code()),
    }
}

fn recorded(charges: &[Charge]) -> Vec<WindowCharge> {
    let one = |charge: &Charge| {
        let (scope, window) = (charge.scope.to_string(), charge.window_name().into_owned());
        WindowCharge(
            scope,
            window,
            charge.start.to_string(),
            Decimal(charge.amount),
            Decimal(charge.cap),
        )
    };
    charges.iter().map(one).collect()
}

/// Per step: which agent pays, how much, after how many minutes; and which earlier payment ends, and how.
fn steps() -> impl Strategy<Value = Vec<(usize, u32, i64, usize, bool)>> {
    prop::collection::vec((0usize..2, 1u32..35, 0i64..100, 0usize..6, any::<bool>()), 40..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_let_through_is_what_a_slow_model_lets_through(
        start in prop::sample::select(vec![
            "2026-03-28T20:00:00Z", // the next day has 23 hours
            "2026-10-24T18:00:00Z", // 25
            "2026-12-31T12:00:00Z", // a new month in the middle of a week
            "2026-11-20T12:00:00Z",
        ]),
        steps in steps(),
    ) {
        let limits = limits(LIMITS);
        let mut model = Model { paid: Vec::new(), zone: TimeZone::get("Europe/Berlin").unwrap() };
        let mut counters = Counters::default();
        let mut booked: Vec<Vec<WindowCharge>> = Vec::new();
        let mut now: Timestamp = start.parse().unwrap();
        for (agent, cents, minutes, ends, settles) in steps {
            now = now.checked_add(SignedDuration::from_mins(minutes)).unwrap();
            let charges = charged(&limits, agent, now, cents);
            let fits = Spending::of_named(counters.clone()).fit(&charges, &[]).is_ok();
            prop_assert_eq!(fits, model.allows(agent, now, cents), "{} at {}", cents, now);
            if fits {
                let charges = recorded(&charges);
                counters.book(&charges, Step::Open).unwrap();
                booked.push(charges);
                model.paid.push(Paid { agent, at: now, cents, end: End::Open });
            }
            if let Some(which) = model.paid.len().checked_sub(ends + 1)
                && model.paid[which].end == End::Open
            {
                let (step, end) = if settles { (Step::Settle, End::Settled) } else { (Step::GiveBack, End::Dead) };
                counters.book(&booked[which], step).unwrap();
                model.paid[which].end = end;
            }
        }
    }
}
