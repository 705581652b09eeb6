//! The decisions that every engine makes in the same way: what is allowed, what fits, and which entry records it.
//!
//! An engine provides its book and takes the entries. How it makes them durable is up to the engine.

use std::sync::Arc;

use jiff::SignedDuration;

use super::book::Book;
use super::counters::{Counter, Usage};
use super::disclosure::Disclosure;
use super::entry::{
    self, Admin, Alert, ApprovalDenied, ApprovalExpired, ApprovalGranted, ApprovalRequested, Armed, Body,
    ClockAccepted, Confirmed, Disputed, Expired, Issued, PauseLifted, PolicyLoaded, PolicyRejected, Presented, Refused,
    Released, Reserved, Settled, Unknown, WindowCharge,
};
use super::model::{
    self, Alarm, ApprovalStep, Arming, Event, Hold, LedgerError, Outcome, RefusalRecord, Reservation, Reserve,
    ReserveError, Resolution, Source, State, Terms,
};
use super::pauses::Pause;
use super::payment::Finding;
use super::text::{Decimal, Digest, Moment};
use super::timekeeping::Timekeeper;
use bursar_core::challenge::Clause;
use bursar_core::clock::random;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::budget::{Charge, Window};
use bursar_core::policy::{PauseScope, Remaining};

pub(crate) trait Decisions {
    fn book(&self) -> &Book;

    fn time(&self) -> &Timekeeper;

    /// Applies one entry to the book and adds it to what becomes durable before any caller gets an answer; returns its
    /// number.
    fn record(&mut self, now: Moment, body: Body) -> Result<u64, String>;

    /// Paths and queries, which the entry only commits to.
    fn disclose(&mut self, seq: u64, disclosures: Vec<Disclosure>);

    /// An error that refuses every reservation at this moment.
    fn may_reserve(&mut self) -> Result<(), ReserveError>;

    fn raise(&self, alarm: Alarm);

    /// The widest pause that stops such payments.
    fn pause_on(&self, agent: &str, group: Option<&str>, host: &str) -> Option<Pause> {
        self.book().pauses().on(agent, group, host).cloned()
    }

    fn is_not_paused(&self, agent: &str, group: Option<&str>, host: &str) -> Result<(), ReserveError> {
        let pause = self.pause_on(agent, group, host);
        pause.map_or(Ok(()), |pause| Err(ReserveError::Paused(Box::new(pause))))
    }

    fn reserve(&mut self, mut reserve: Reserve, now: Moment) -> Result<Reservation, ReserveError> {
        let Hold { agent, group, host, .. } = &reserve.hold;
        self.is_not_paused(agent, group.as_deref(), host)?;
        self.may_reserve()?;
        self.book().counters().begin(&mut reserve.hold.charges);
        let totals = self.book().admits(&reserve, now)?;
        self.alarm_if_nearly_spent(&reserve.hold.charges, &totals);
        let Reserve { hold, arm } = reserve;
        let remaining = Remaining::least(&hold.charges, &totals);
        let reservation = Reservation::new(hold.rid, hold.terms.clone(), arm.clone(), remaining);
        self.record_hold(hold, Some(&arm), now)?;
        Ok(reservation)
    }

    fn hold(&mut self, mut hold: Hold, now: Moment) -> Result<PaymentId, ReserveError> {
        self.is_not_paused(&hold.agent, hold.group.as_deref(), &hold.host)?;
        self.may_reserve()?;
        self.book().counters().begin(&mut hold.charges);
        let totals = self.book().admits_hold(&hold, now)?;
        self.alarm_if_nearly_spent(&hold.charges, &totals);
        let rid = hold.rid;
        self.record_hold(hold, None, now)?;
        Ok(rid)
    }

    fn arm(&mut self, rid: PaymentId, mut arming: Arming, now: Moment) -> Result<Reservation, ReserveError> {
        if let Some(held) = self.book().open_payment(&rid) {
            let reserved = &held.reserved;
            self.is_not_paused(&reserved.agent, reserved.group.as_deref(), &reserved.host)?;
        }
        self.may_reserve()?;
        self.book().counters().begin(&mut arming.charges);
        let totals = self.book().admits_arming(rid, &arming, now)?;
        let held = self.book().open_payment(&rid).ok_or(ReserveError::NotHeld(rid))?;
        let terms = Terms::recorded(&held.reserved).ok_or(ReserveError::NotHeld(rid))?;
        let windows = window_charges(&arming.charges);
        let moved = (held.windows() != windows).then_some(windows);
        self.alarm_if_nearly_spent(&arming.charges, &totals);
        let body = Body::Armed(Armed {
            approval: arming.approval,
            arm: (&arming.arm).into(),
            rid,
            windows: moved,
        });
        self.record(now, body).map_err(ReserveError::Failed)?;
        let remaining = Remaining::least(&arming.charges, &totals);
        Ok(Reservation::new(rid, terms, arming.arm, remaining))
    }

    fn issued(&mut self, rid: PaymentId, issued: &model::Issued, now: Moment) -> Result<(), LedgerError> {
        self.book().admits_issued(rid, issued)?;
        let body = Body::Issued(Issued {
            authorization: issued.authorization.clone(),
            nonce: issued.nonce,
            rid,
            valid_after: Decimal(issued.valid_after),
            valid_before: Decimal(issued.valid_before),
        });
        self.enter(now, body)
    }

    fn approval(&mut self, step: ApprovalStep, now: Moment) -> Result<(), LedgerError> {
        let body = approval_body(step);
        self.book().admits_approval(&body, now)?;
        if let Body::ApprovalRequested(requested) = &body {
            self.book().approvals().is_worth_asking(requested, now)?;
        }
        self.enter(now, body)
    }

    /// Lifts the pause of this scope, if it is paused.
    fn resume(
        &mut self,
        scope: PauseScope,
        who: String,
        why: String,
        now: Moment,
    ) -> Result<Option<Pause>, LedgerError> {
        let pause = self.book().pauses().of(&scope).cloned();
        if pause.is_some() {
            self.enter(now, Body::PauseLifted(PauseLifted { scope, who, why }))?;
        }
        Ok(pause)
    }

    /// Like [`Decisions::record`], for callers that do not need the number.
    fn enter(&mut self, now: Moment, body: Body) -> Result<(), LedgerError> {
        self.record(now, body).map(|_| ()).map_err(LedgerError::Failed)
    }

    fn record_hold(&mut self, hold: Hold, arm: Option<&model::Arm>, now: Moment) -> Result<(), ReserveError> {
        let disclosures = disclosures(&hold)?;
        let body = reserved(hold, arm, &disclosures);
        let seq = self.record(now, body).map_err(ReserveError::Failed)?;
        self.disclose(seq, disclosures);
        Ok(())
    }

    fn alarm_if_nearly_spent(&self, charges: &[Charge], totals: &[u128]) {
        for alarm in nearly_spent(charges, totals) {
            self.raise(alarm);
        }
    }

    fn record_finding(&mut self, rid: PaymentId, finding: Finding, now: Moment) -> Result<(), LedgerError> {
        let is_open = self.book().open_payment(&rid).is_some();
        if !is_open && !self.book().is_unconfirmed(rid) {
            return Err(LedgerError::NotUnconfirmed(rid));
        }
        let body = match finding {
            // An open payment is settled, not confirmed.
            Finding::Confirmed { .. } | Finding::Taken { .. } if is_open => {
                return Err(LedgerError::NotUnconfirmed(rid));
            }
            Finding::Confirmed { by, tx, block } => Body::Confirmed(confirmed(rid, by, tx, block)),
            Finding::Taken { of, .. } if of.rid() != rid => return Err(LedgerError::NotUnconfirmed(rid)),
            Finding::Taken {
                by,
                tx,
                block,
                taken,
                of,
            } => Body::Confirmed(Confirmed {
                back: of.back(taken.get()).ok_or(LedgerError::MoreThanSigned(rid))?,
                taken: Some(Decimal(taken.get())),
                ..confirmed(rid, by, tx, block)
            }),
            Finding::Disputed { why, tx } => Body::Disputed(Disputed { rid, tx, why }),
        };
        self.enter(now, body)
    }

    fn append(&mut self, event: Event, now: Moment) -> Result<(), LedgerError> {
        let now = match &event {
            Event::ClockAccepted { .. } => Moment::of(self.time().accept()),
            _ => now,
        };
        self.enter(now, event_body(event))
    }

    fn finish(&mut self, rid: PaymentId, outcome: Outcome, now: Moment) -> Result<(), LedgerError> {
        let (to, body) = match outcome {
            Outcome::Settled { by, tx } => (State::Settled, Body::Settled(settled(rid, by, tx))),
            Outcome::Taken { by, tx, taken } => {
                let payment = self.book().open_payment(&rid).ok_or(LedgerError::NotOpen(rid))?;
                let back = payment.back(taken.get()).ok_or(LedgerError::MoreThanSigned(rid))?;
                let taken = Some(Decimal(taken.get()));
                (
                    State::Settled,
                    Body::Settled(Settled {
                        back,
                        taken,
                        ..settled(rid, by, tx)
                    }),
                )
            }
            Outcome::Unknown { why, tx } => (
                State::Unknown,
                Body::Unknown(Unknown {
                    rid,
                    tx,
                    why: why.into(),
                }),
            ),
            Outcome::Expired { by, why } => (
                State::Expired,
                Body::Expired(Expired {
                    by,
                    rid,
                    why: why.into(),
                }),
            ),
            Outcome::Released { why } => (State::Released, Body::Released(Released { rid, why: why.into() })),
        };
        let from = self.state(rid)?;
        if from == to {
            return Ok(());
        }
        self.lawful(rid, from, to)?;
        self.enter(now, body)
    }

    fn resolve(
        &mut self,
        rid: PaymentId,
        resolution: Resolution,
        who: String,
        why: String,
        now: Moment,
    ) -> Result<(), LedgerError> {
        let (by, reason) = (Source::Operator, why.clone());
        let (to, body) = match resolution {
            Resolution::Settled { tx } => (
                State::Settled,
                Body::Settled(Settled {
                    why: Some(reason),
                    ..settled(rid, by, tx)
                }),
            ),
            Resolution::Expired => (State::Expired, Body::Expired(Expired { by, rid, why: reason })),
        };
        // Only a payment whose outcome is unknown can be resolved by an operator (R11). An armed one may be cashed at
        // this moment, and its exchange will record how it ended.
        if self.state(rid)? != State::Unknown {
            return Err(LedgerError::UnderWay(rid));
        }
        // The order matters: of a torn pair only the first line can survive, and that one moves no money.
        let action = Admin {
            action: format!("payments.resolve.{to}"),
            rid: Some(rid),
            who,
            why,
        };
        self.enter(now, Body::Admin(action))?;
        self.enter(now, body)
    }

    fn state(&self, rid: PaymentId) -> Result<State, LedgerError> {
        self.book()
            .open_payment(&rid)
            .map(|payment| payment.state)
            .ok_or(LedgerError::NotOpen(rid))
    }

    fn lawful(&self, rid: PaymentId, from: State, to: State) -> Result<(), LedgerError> {
        if from.may_become(to) {
            Ok(())
        } else {
            Err(LedgerError::Unlawful { rid, from, to })
        }
    }

    fn usage(&self, scopes: &[String]) -> Vec<Usage> {
        let mut usage = Vec::new();
        for scope in scopes {
            for (window, start, Counter { settled, open }) in self.book().counters().of_scope(scope) {
                let (scope, window, start) = (scope.clone(), window.to_owned(), start.to_owned());
                usage.push(Usage {
                    scope,
                    window,
                    start,
                    settled,
                    open,
                });
            }
        }
        usage
    }
}

/// Alarms for the charges that fill their window to four fifths. If the window was that full before, the alarm was
/// already raised.
fn nearly_spent(charges: &[Charge], totals: &[u128]) -> Vec<Alarm> {
    let is_nearly = |counted: u128, cap: u128| counted >= cap - cap / 5;
    let mut alarms = Vec::new();
    // Where a person is asked anyway, nobody needs a warning that they will be.
    let budgets = |(charge, _): &(&Charge, &u128)| !matches!(charge.window, Window::SinceApproval | Window::Payee);
    for (charge, &counted) in charges.iter().zip(totals).filter(budgets) {
        let before = counted.saturating_sub(charge.amount);
        if is_nearly(counted, charge.cap) && !is_nearly(before, charge.cap) {
            alarms.push(Alarm::BudgetNearlySpent {
                scope: charge.scope.to_string(),
                window: charge.window_name().into_owned(),
                start: charge.start.to_string(),
                rule: charge.rule.to_string(),
                counted,
                cap: charge.cap,
            });
        }
    }
    alarms
}

/// A settlement of the whole amount.
fn settled(rid: PaymentId, by: Source, tx: Option<String>) -> Settled {
    Settled {
        back: Vec::new(),
        by,
        rid,
        taken: None,
        tx,
        why: None,
    }
}

/// A confirmation that the whole amount was taken.
fn confirmed(rid: PaymentId, by: Source, tx: Option<String>, block: Option<u64>) -> Confirmed {
    Confirmed {
        back: Vec::new(),
        block,
        by,
        rid,
        taken: None,
        tx,
    }
}

pub(crate) fn seconds(span: SignedDuration) -> u64 {
    u64::try_from(span.as_secs()).unwrap_or(0)
}

fn disclosures(hold: &Hold) -> Result<Vec<Disclosure>, ReserveError> {
    let named = [
        ("origin", hold.origin.as_deref()),
        ("path", Some(hold.path.as_str())),
        ("query", hold.query.as_deref()),
    ];
    let mut disclosures = Vec::with_capacity(named.len());
    for (name, value) in named {
        if let Some(value) = value {
            let salt = random().map_err(|error| ReserveError::Failed(format!("no random numbers: {error}")))?;
            disclosures.push(Disclosure::new(salt, name, value));
        }
    }
    Ok(disclosures)
}

fn window_charges(charges: &[Charge]) -> Vec<WindowCharge> {
    let recorded = |charge: &Charge| {
        let (scope, window) = (charge.scope.to_string(), charge.window_name().into_owned());
        WindowCharge(
            scope,
            window,
            charge.start.to_string(),
            Decimal(charge.amount),
            Decimal(charge.cap),
        )
    };
    charges.iter().map(recorded).collect()
}

fn reserved(hold: Hold, arm: Option<&model::Arm>, disclosures: &[Disclosure]) -> Body {
    let sd = commitments(disclosures);
    let terms = &hold.terms;
    Body::Reserved(Arc::new(Reserved {
        amount: Decimal(terms.amount.get()),
        arm: arm.map(Into::into),
        asset: terms.asset.caip19(),
        decimals: terms.asset.decimals(),
        facilitator: match terms.clause {
            Clause::Facilitator(facilitator) => Some(facilitator),
            Clause::None | Clause::FeeCap(_) => None,
        },
        fee: match terms.clause {
            Clause::FeeCap(fee) => Some(Decimal(fee.get())),
            Clause::None | Clause::Facilitator(_) => None,
        },
        fp: Digest(hold.fingerprint),
        idem: hold.idempotency.map(Digest),
        network: terms.asset.network().to_string(),
        offer_sha256: Digest(hold.offer_sha256),
        others: hold.others,
        payee: terms.payee.clone(),
        policy_gen: hold.policy_gen,
        rail: terms.rail.to_string(),
        rid: hold.rid,
        scheme: terms.rail.scheme().to_owned(),
        sd,
        symbol: terms.asset.symbol().to_owned(),
        usd_micros: Decimal(terms.usd.get()),
        windows: window_charges(&hold.charges),
        agent: hold.agent,
        group: hold.group,
        host: hold.host,
    }))
}

/// Sorted, so that their order reveals nothing.
fn commitments(disclosures: &[Disclosure]) -> Vec<String> {
    let mut sd: Vec<String> = disclosures.iter().map(Disclosure::digest).collect();
    sd.sort_unstable();
    sd
}

fn approval_body(step: ApprovalStep) -> Body {
    match step {
        ApprovalStep::Requested(requested) => Body::ApprovalRequested(ApprovalRequested {
            agent: requested.agent,
            approver: requested.approver,
            backend: requested.backend,
            id: requested.id,
            intent: Digest(requested.intent),
            needed: requested.needed,
            rid: requested.rid,
            sd: commitments(&requested.codes),
            rules: requested.rules,
            until: Moment::of(requested.until),
        }),
        ApprovalStep::Granted {
            id,
            by,
            kind,
            evidence_sha256,
            replay,
            replay_until,
            use_by,
        } => Body::ApprovalGranted(ApprovalGranted {
            by,
            evidence_sha256: Digest(evidence_sha256),
            id,
            kind,
            replay: Digest(replay),
            replay_until: Moment::of(replay_until),
            use_by: Moment::of(use_by),
        }),
        ApprovalStep::Refused { id, by, why, until } => Body::ApprovalDenied(ApprovalDenied {
            by,
            id,
            until: Moment::of(until),
            why,
        }),
        ApprovalStep::Expired { id, why } => Body::ApprovalExpired(ApprovalExpired { id, why }),
    }
}

pub(crate) fn refused(refusal: RefusalRecord, count: u64) -> Body {
    let RefusalRecord {
        agent,
        group,
        host,
        reason,
        rule,
        asked,
    } = refusal;
    let usd_micros = asked.map(|usd| Decimal(usd.get()));
    Body::Refused(Refused {
        agent,
        count,
        group,
        host,
        reason,
        rule,
        usd_micros,
    })
}

pub(crate) fn event_body(event: Event) -> Body {
    match event {
        Event::PolicyLoaded {
            generation,
            sha256,
            who,
        } => Body::PolicyLoaded(PolicyLoaded {
            policy_gen: generation,
            sha256: Digest(sha256),
            who,
        }),
        Event::PolicyRejected { sha256, reason, who } => Body::PolicyRejected(PolicyRejected {
            reason,
            sha256: Digest(sha256),
            who,
        }),
        Event::Presented { rid, number } => Body::Presented(Presented { number, rid }),
        Event::Outflow(outflow) => Body::Outflow(entry::Outflow {
            amount: Decimal(outflow.amount.get()),
            asset: outflow.asset,
            block: outflow.block,
            log_index: outflow.log_index,
            network: outflow.network,
            payee: outflow.payee,
            symbol: outflow.symbol,
            tx: outflow.tx,
        }),
        Event::Alert { kind, detail, rid } => Body::Alert(Alert {
            detail,
            kind: kind.to_owned(),
            rid,
        }),
        Event::ClockAccepted { who, why } => Body::ClockAccepted(ClockAccepted { who, why }),
        Event::AdminAction { action, who, why } => Body::Admin(Admin {
            action,
            rid: None,
            who,
            why,
        }),
    }
}

pub(crate) fn pause_set(pause: Pause) -> Body {
    let Pause { scope, who, why, .. } = pause;
    Body::PauseSet(entry::PauseSet { scope, who, why })
}
