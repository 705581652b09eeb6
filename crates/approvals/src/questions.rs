//! Payments that wait for a person. Each question runs in its own task, from the hold to its end. Requests only wait on
//! it, so an agent that hangs up, a repeated request and a restart all find the same question (R43 to R45).
//!
//! Decisions are recorded in the ledger; the texts of questions and answers are in `private/approvals/` (R46,
//! `stored.rs`).

mod answers;
mod approvers;
mod codes;
mod ending;
mod lifecycle;
mod prompts;
mod settings;
mod stored;
#[cfg(test)]
mod tests;
mod votes;
mod wait;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::operator::Operator;
use crate::{Backend, Denial, Failure, Notifier};
pub use answers::{NotAnswered, Pending};
pub use approvers::{Approvers, NoApprover};
use bursar_core::approval::{ApprovalIntent, Evidence, Question};
use bursar_core::clock::SharedClock;
use bursar_ledger::disclosure::Disclosure;
use bursar_ledger::{Hold, Ledger, LedgerError, PaymentId, ReserveError};
use codes::DrawnCode;
pub use codes::Randomness;
pub(crate) use codes::opens_to;
pub use ending::Withdrawn;
use prompts::Prompts;
pub use settings::Settings;
pub use stored::{StoredAsk, StoredQuestion, look, read};
pub use wait::{Taken, Wait};

/// All open questions, and the backend that delivers them.
#[derive(Clone)]
pub struct Questions(Arc<Shared>);

struct Shared {
    backend: Arc<dyn Backend>,
    /// The same object as `backend`, if that is the operator backend.
    operator: Option<Arc<Operator>>,
    /// The approver when limits.toml names none.
    approver: Option<String>,
    settings: Settings,
    folder: PathBuf,
    ledger: Arc<dyn Ledger>,
    notifier: Arc<dyn Notifier>,
    randomness: Randomness,
    clock: SharedClock,
    tasks: TaskTracker,
    stop: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: HashMap<Asker, Arc<Row>>,
    denied: HashMap<Asker, Denied>,
    prompts: Prompts,
}

/// Two questions with equal keys are the same question (approvals §7).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asker {
    agent: String,
    intent: [u8; 32],
}

/// One payment's open question, to one approver or several.
struct Row {
    /// The id of the payment.
    id: PaymentId,
    agent: String,
    /// The terms to approve. With several approvers, it names all of them.
    intent: ApprovalIntent,
    /// Paths in limits.toml of the rules that the approval lifts (R82).
    rules: Vec<String>,
    asks: Vec<Ask>,
    /// How many of them must approve. A single denial ends the question.
    needed: usize,
    /// Accounts that may not approve.
    owners: Vec<String>,
    /// Hash of the `Idempotency-Key` of the request that asked first.
    idempotency: Option<[u8; 32]>,
    ends: Timestamp,
    stage: watch::Sender<Stage>,
}

/// The question to one approver.
struct Ask {
    question: Question,
    disclosure: Option<Disclosure>,
    /// The backend's id of the question.
    handle: OnceLock<String>,
    /// Wakes the task to poll the backend now.
    wake: Notify,
    /// The next poll is the last one.
    is_last: AtomicBool,
}

/// How far a question has come.
#[derive(Clone, Debug)]
pub enum Stage {
    /// The money is being held, and the question sent to the backend.
    Asking,
    Open,
    /// One waiting request may take the approval, until `use_by`.
    Approved {
        use_by: Timestamp,
    },
    /// One request has taken the approval.
    Taken {
        use_by: Timestamp,
    },
    Over(Over),
}

/// How a question ended.
#[derive(Clone, Debug)]
pub enum Over {
    Used,
    /// Nobody was asked: the limits or the ledger refused the hold.
    NotHeld(ReserveError),
    /// Nobody was asked: another proxy on the same ledger has the same question open under this id.
    AskedAlready(PaymentId),
    Denied(Denial),
    /// Nobody answered, or the approval was not used.
    Expired,
    Failed(Failure),
    NotRecorded(LedgerError),
}

/// A question that a request wants to ask.
pub struct Wanted {
    pub hold: Hold,
    /// Its approver is [`Approvers::name`].
    pub intent: ApprovalIntent,
    pub approvers: Approvers,
    /// Paths in limits.toml of the rules that require the approval. It lifts these and no others (R82).
    pub rules: Vec<String>,
}

/// What is known about a question that a request would ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is being asked, and names these rules.
    Open { rules: Vec<String> },
    /// A person denied it a short while ago.
    Denied,
}

/// A bound on questions that an agent has reached (threat 4.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// This many questions of the agent are open.
    OfAgent { agent: String, open: usize },
    /// This many questions to the approver are open; `agent` would ask one more.
    OfApprover {
        approver: String,
        agent: String,
        open: usize,
    },
    /// The agent has asked the approver `count` questions within the hour.
    OfHour {
        agent: String,
        approver: String,
        count: usize,
    },
}

impl Bound {
    /// The bound without its figure.
    pub fn uncounted(&self) -> Self {
        let mut bound = self.clone();
        match &mut bound {
            Self::OfAgent { open, .. } | Self::OfApprover { open, .. } => *open = 0,
            Self::OfHour { count, .. } => *count = 0,
        }
        bound
    }
}

/// Why a question was not asked.
pub enum NotAsked {
    /// A person denied the same payment a short while ago.
    Denied { denial: Denial, wait: Duration },
    /// People are asked too much already. `wait`: how long until there is room, if that is known.
    Bounded { bound: Bound, wait: Option<Duration> },
    /// The same question is open for a request with another `Idempotency-Key`.
    OtherKey(PaymentId),
    /// The operating system gave no random bytes for the code.
    NoCode,
}

#[derive(Clone)]
struct Denied {
    denial: Denial,
    until: Timestamp,
}

/// The configured backend.
pub enum Asks {
    Operator(Arc<Operator>),
    Service {
        backend: Arc<dyn Backend>,
        /// The approver when limits.toml names none.
        approver: Option<String>,
    },
}

/// What questions need from the rest of the program.
pub struct Services {
    pub folder: PathBuf,
    pub ledger: Arc<dyn Ledger>,
    pub notifier: Arc<dyn Notifier>,
    pub randomness: Randomness,
    pub clock: SharedClock,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Questions {
    pub fn new(asks: Asks, settings: Settings, around: Services) -> Self {
        let (backend, operator, approver) = match asks {
            Asks::Operator(operator) => (operator.clone() as Arc<dyn Backend>, Some(operator), None),
            Asks::Service { backend, approver } => (backend, None, approver),
        };
        let Services {
            folder,
            ledger,
            notifier,
            randomness,
            clock,
            tasks,
            stop,
        } = around;
        Self(Arc::new(Shared {
            backend,
            operator,
            approver,
            settings,
            folder,
            ledger,
            notifier,
            randomness,
            clock,
            tasks,
            stop,
            state: Mutex::default(),
        }))
    }

    /// Resumes what an earlier run left behind: open questions, unused approvals and recent denials.
    pub async fn resume(&self) -> Result<(), LedgerError> {
        // Read before the ledger: a question that ends in between is either in this set or no longer in the ledger.
        let carried: HashSet<PaymentId> = self.state().live.values().map(|row| row.id).collect();
        let known = self.0.ledger.approvals().await?;
        for denied in known.denied {
            let asker = Asker {
                agent: denied.agent,
                intent: denied.intent,
            };
            self.remember(asker, denied.until);
        }
        for row in known.live.into_iter().filter(|row| !carried.contains(&row.id)) {
            self.take_up(row).await;
        }
        Ok(())
    }

    /// Retries [`Questions::resume`] until the ledger can be read; a ledger in a database may be unreachable for a
    /// while.
    pub fn resume_later(&self) {
        let questions = self.clone();
        self.0.tasks.spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                tokio::select! {
                    () = questions.0.stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                match questions.resume().await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::debug!(%error, "the open questions cannot be read from the ledger yet; retrying")
                    }
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Remembers a denial of which the ledger has only the end time.
    fn remember(&self, asker: Asker, until: Timestamp) {
        let denial = Denial::default();
        self.state()
            .denied
            .entry(asker)
            .and_modify(|denied| denied.until = denied.until.max(until))
            .or_insert(Denied { denial, until });
    }

    /// Polls now: the backend has signalled that the question with this `handle` has an answer.
    pub fn wake(&self, handle: &str) {
        for ask in self.state().live.values().flat_map(|row| &row.asks) {
            // A question without a handle may be meant too: the signal can arrive before the handle is on disk.
            if ask.handle.get().is_none_or(|known| known == handle) {
                ask.wake.notify_one();
            }
        }
    }

    /// Whether this payment waits for a person. Its idempotency key is then not in use yet.
    pub fn holds(&self, rid: PaymentId) -> bool {
        self.state().live.values().any(|row| row.id == rid)
    }

    /// Whether this agent has no open question and no recent denial, so that callers can skip building one to look it
    /// up.
    pub fn knows_nothing_of(&self, agent: &str) -> bool {
        let state = self.state();
        !state
            .live
            .keys()
            .chain(state.denied.keys())
            .any(|asker| asker.agent == agent)
    }

    /// This question, if it is open or was denied a short while ago.
    pub fn known(&self, agent: &str, intent: &ApprovalIntent) -> Option<Known> {
        let asker = Asker {
            agent: agent.to_owned(),
            intent: intent.hash(),
        };
        let (now, state) = (self.0.clock.now(), self.state());
        let open = state.live.get(&asker).map(|row| Known::Open {
            rules: row.rules.clone(),
        });
        let is_denied = || state.denied.get(&asker).is_some_and(|denied| denied.until > now);
        open.or_else(|| is_denied().then_some(Known::Denied))
    }

    /// Joins the open question with the same terms, or asks a new one.
    pub fn ask(&self, wanted: Wanted) -> Result<Wait, NotAsked> {
        let Wanted {
            hold,
            intent,
            approvers,
            rules,
        } = wanted;
        let shared = &self.0;
        let (now, settings) = (shared.clock.now(), &shared.settings);
        let asker = Asker {
            agent: hold.agent.clone(),
            intent: intent.hash(),
        };
        let mut state = self.state();
        if let Some(row) = state.live.get(&asker).cloned() {
            drop(state);
            return match row.idempotency == hold.idempotency {
                true => Ok(self.watching(row)),
                false => Err(NotAsked::OtherKey(row.id)),
            };
        }
        state.denied.retain(|_, denied| denied.until > now);
        if let Some(denied) = state.denied.get(&asker) {
            let denial = denied.denial.clone();
            let wait = Duration::try_from(denied.until.duration_since(now)).unwrap_or_default();
            return Err(NotAsked::Denied { denial, wait });
        }
        let open = state.live.keys().filter(|live| live.agent == asker.agent).count();
        if open >= settings.max_pending_per_agent {
            let agent = asker.agent;
            return Err(self.bounded(Bound::OfAgent { agent, open }, None));
        }
        for approver in &approvers.names {
            let asks = state.live.values().flat_map(|row| &row.asks);
            let open = asks.filter(|ask| ask.approver() == approver).count();
            if open >= settings.max_pending_per_approver {
                let (approver, agent) = (approver.clone(), asker.agent);
                let bound = Bound::OfApprover { approver, agent, open };
                return Err(self.bounded(bound, None));
            }
        }
        let codes: Option<Vec<DrawnCode>> = approvers
            .names
            .iter()
            .map(|name| shared.randomness.code(name))
            .collect();
        let codes = codes.ok_or(NotAsked::NoCode)?;
        for (done, approver) in approvers.names.iter().enumerate() {
            let by = (asker.agent.clone(), approver.clone());
            if let Err(wait) = state.prompts.note(by, settings.prompts_per_hour, now) {
                for approver in &approvers.names[..done] {
                    state.prompts.take_back(&(asker.agent.clone(), approver.clone()));
                }
                let (agent, approver, count) = (asker.agent, approver.clone(), settings.prompts_per_hour);
                let bound = Bound::OfHour { agent, approver, count };
                return Err(self.bounded(bound, Some(wait)));
            }
        }
        // R43: the approver gets `ttl` after the agent's hold has ended.
        let ttl = (settings.hold + settings.ttl).min(LONGEST_TTL);
        let row = Row::new(&hold, intent, approvers, codes, rules, ttl, later(now, ttl));
        state.live.insert(asker, row.clone());
        drop(state);
        let (questions, carried) = (self.clone(), row.clone());
        shared.tasks.spawn(async move { questions.put(carried, hold).await });
        Ok(self.watching(row))
    }

    fn bounded(&self, bound: Bound, wait: Option<Duration>) -> NotAsked {
        self.0.notifier.bounded(&bound);
        NotAsked::Bounded { bound, wait }
    }

    fn watching(&self, row: Arc<Row>) -> Wait {
        Wait {
            questions: self.clone(),
            stage: row.stage.subscribe(),
            row,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// First and longest pause between two attempts to read the ledger.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Upper limit on how long a question stays open (R43).
const LONGEST_TTL: Duration = Duration::from_secs(600);

impl Row {
    fn new(
        hold: &Hold,
        intent: ApprovalIntent,
        approvers: Approvers,
        codes: Vec<DrawnCode>,
        rules: Vec<String>,
        ttl: Duration,
        ends: Timestamp,
    ) -> Arc<Self> {
        let usd_cents = cents(hold.terms.usd.get());
        let ask = |id, intent: ApprovalIntent, drawn: DrawnCode| {
            let (code, amount) = (drawn.code, intent.amount());
            let question = Question {
                id,
                sentence: intent.sentence(&amount, code),
                compact: intent.compact(&amount, code),
                code,
                usd_cents,
                intent,
                ttl,
            };
            Ask::new(question, drawn.disclosure)
        };
        let is_one = approvers.names.len() == 1;
        let asks = approvers.names.iter().zip(codes).map(|(name, drawn)| match is_one {
            true => ask(hold.rid, intent.clone(), drawn),
            false => ask(hold.rid.part(name), intent.to(name), drawn),
        });
        let asks = asks.collect();
        Arc::new(Self {
            id: hold.rid,
            agent: hold.agent.clone(),
            intent,
            rules,
            asks,
            needed: approvers.needed,
            owners: approvers.owners,
            idempotency: hold.idempotency,
            ends,
            stage: watch::Sender::new(Stage::Asking),
        })
    }

    fn asker(&self) -> Asker {
        Asker {
            agent: self.agent.clone(),
            intent: self.intent.hash(),
        }
    }
}

impl Ask {
    fn new(question: Question, disclosure: Option<Disclosure>) -> Self {
        Self {
            question,
            disclosure,
            handle: OnceLock::new(),
            wake: Notify::new(),
            is_last: AtomicBool::new(false),
        }
    }

    fn approver(&self) -> &str {
        self.question.intent.member("approver").unwrap_or_default()
    }
}

/// US cents, rounded up.
fn cents(micros: u128) -> u64 {
    u64::try_from(micros.div_ceil(10_000)).unwrap_or(u64::MAX)
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

/// The bytes of the evidence whose hash is in the ledger.
pub(crate) fn evidence_bytes(evidence: &Evidence) -> Vec<u8> {
    serde_json::to_vec(evidence).unwrap_or_default()
}
