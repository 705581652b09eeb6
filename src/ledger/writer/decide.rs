//! Decides single operations against the book and writes their entries.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Writer;
use super::ops::Usage;
use crate::clock::random;
use crate::ledger::book::Counter;
use crate::ledger::disclosure::Disclosure;
use crate::ledger::entry::{
    Admin, Body, Denied, Expired, PolicyLoaded, PolicyRejected, Presented, Released, Reserved, Settled, Unknown,
    WindowCharge,
};
use crate::ledger::model::{
    By, Denial, Event, LedgerError, Outcome, Reservation, Reserve, ReserveError, Resolution, State,
};
use crate::ledger::rid::Rid;
use crate::ledger::text::{Decimal, Digest, Moment};

/// How long a look at the free space is believed.
const SPACE_CHECKED_EVERY: Duration = Duration::from_secs(1);

impl Writer {
    pub(super) fn reserve(&mut self, reserve: Reserve, now: Moment) -> Result<Reservation, ReserveError> {
        if let Some(why) = self.opening.journal.failed() {
            return Err(ReserveError::Failed(why.to_owned()));
        }
        if self.space.is_low() {
            return Err(ReserveError::LowSpace);
        }
        self.book().admits(&reserve, now)?;
        let disclosures = disclosures(&reserve)?;
        let reservation = Reservation::new(reserve.rid, reserve.terms.clone(), reserve.arm);
        let seq = self
            .record(now, reserved(reserve, &disclosures))
            .map_err(ReserveError::Failed)?;
        self.disclosures
            .extend(disclosures.into_iter().map(|disclosure| (seq, disclosure)));
        Ok(reservation)
    }

    pub(super) fn finish(&mut self, rid: Rid, outcome: Outcome, now: Moment) -> Result<(), LedgerError> {
        let (to, body) = match outcome {
            Outcome::Settled { by, tx } => (State::Settled, Body::Settled(Settled { by, rid, tx, why: None })),
            Outcome::Unknown { why, tx } => (
                State::Unknown,
                Body::Unknown(Unknown {
                    rid,
                    tx,
                    why: why.to_owned(),
                }),
            ),
            Outcome::Expired { by, why } => (
                State::Expired,
                Body::Expired(Expired {
                    by,
                    rid,
                    why: why.to_owned(),
                }),
            ),
            Outcome::Released { why } => (
                State::Released,
                Body::Released(Released {
                    rid,
                    why: why.to_owned(),
                }),
            ),
        };
        let from = self.state(rid)?;
        if from == to {
            return Ok(());
        }
        self.lawful(rid, from, to)?;
        self.record(now, body).map(|_| ()).map_err(LedgerError::Failed)
    }

    pub(super) fn resolve(
        &mut self,
        rid: Rid,
        resolution: Resolution,
        who: String,
        why: String,
        now: Moment,
    ) -> Result<(), LedgerError> {
        let (by, reason) = (By::Operator, why.clone());
        let (to, body) = match resolution {
            Resolution::Settled { tx } => (
                State::Settled,
                Body::Settled(Settled {
                    by,
                    rid,
                    tx,
                    why: Some(reason),
                }),
            ),
            Resolution::Expired => (State::Expired, Body::Expired(Expired { by, rid, why: reason })),
        };
        // Only what is in doubt waits for an operator's word (Ruling 11). What is armed may be cashed in this moment, and
        // its exchange says by itself how it ended.
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
        self.record(now, Body::Admin(action)).map_err(LedgerError::Failed)?;
        self.record(now, body).map(|_| ()).map_err(LedgerError::Failed)
    }

    fn state(&self, rid: Rid) -> Result<State, LedgerError> {
        self.book()
            .open_payment(&rid)
            .map(|payment| payment.state)
            .ok_or(LedgerError::NotOpen(rid))
    }

    fn lawful(&self, rid: Rid, from: State, to: State) -> Result<(), LedgerError> {
        if from.may_become(to) {
            Ok(())
        } else {
            Err(LedgerError::Unlawful { rid, from, to })
        }
    }

    pub(super) fn usage(&self, scopes: &[String]) -> Vec<Usage> {
        let mut usage = Vec::new();
        for scope in scopes {
            for (window, start, Counter { settled, open }) in self.book().counters_of(scope) {
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

/// Free space where the journal lies (digest §1.2, rule 8).
pub(super) struct Space {
    dir: PathBuf,
    min_free_bytes: u64,
    checked: Option<(Instant, bool)>,
}

impl Space {
    pub(super) fn new(dir: PathBuf, min_free_bytes: u64) -> Self {
        Self {
            dir,
            min_free_bytes,
            checked: None,
        }
    }

    pub(super) fn is_low(&mut self) -> bool {
        match self.checked {
            Some((at, is_low)) if at.elapsed() < SPACE_CHECKED_EVERY => is_low,
            _ => {
                let free = rustix::fs::statvfs(&self.dir).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
                // Not to know is to doubt, and a doubt refuses.
                let is_low = free.map_or(true, |free| free < self.min_free_bytes);
                self.checked = Some((Instant::now(), is_low));
                is_low
            }
        }
    }
}

fn disclosures(reserve: &Reserve) -> Result<Vec<Disclosure>, ReserveError> {
    let named = [
        ("path", Some(reserve.path.as_str())),
        ("query", reserve.query.as_deref()),
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

fn reserved(reserve: Reserve, disclosures: &[Disclosure]) -> Body {
    let mut sd: Vec<String> = disclosures.iter().map(Disclosure::digest).collect();
    sd.sort_unstable();
    let windows = reserve.charges.iter().map(|charge| {
        let (scope, window, start) = (
            charge.scope.to_string(),
            charge.window_name().to_owned(),
            charge.start.to_string(),
        );
        WindowCharge(scope, window, start, Decimal(charge.amount), Decimal(charge.cap))
    });
    let terms = &reserve.terms;
    Body::Reserved(Arc::new(Reserved {
        amount: Decimal(terms.amount.get()),
        arm: Some((&reserve.arm).into()),
        asset: terms.asset.caip19(),
        decimals: terms.asset.decimals,
        fp: Digest(reserve.fingerprint),
        idem: reserve.idempotency.map(Digest),
        network: terms.asset.network.to_string(),
        offer_sha256: Digest(reserve.offer_sha256),
        payee: terms.payee,
        policy_gen: reserve.policy_gen,
        rail: terms.rail.to_string(),
        rid: reserve.rid,
        scheme: terms.scheme.to_owned(),
        sd,
        symbol: terms.asset.symbol.to_owned(),
        usd_micros: Decimal(terms.usd.get()),
        windows: windows.collect(),
        agent: reserve.agent,
        group: reserve.group,
        host: reserve.host,
    }))
}

pub(super) fn denied(denial: Denial, count: u64) -> Body {
    let Denial {
        agent,
        group,
        host,
        reason,
        rule,
        asked,
    } = denial;
    let usd_micros = asked.map(|usd| Decimal(usd.get()));
    Body::Denied(Denied {
        agent,
        count,
        group,
        host,
        reason,
        rule,
        usd_micros,
    })
}

pub(super) fn event_body(event: Event) -> Body {
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
        Event::AdminAction { action, who, why } => Body::Admin(Admin {
            action,
            rid: None,
            who,
            why,
        }),
    }
}
