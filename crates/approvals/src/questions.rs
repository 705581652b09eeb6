//! Payments that wait for a person. Each question is carried by a task of its own from the hold to its end; requests only watch it,
//! so that an agent that hangs up, a repeat and a restart all find the same one (R43 to R45).
//!
//! What is decided lies in the books; what was asked and answered lies in `private/approvals/` (R46, `kept.rs`).

mod answers;
mod approvers;
mod lifecycle;
mod prompts;
mod settings;
mod stored;
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
use bursar_ledger::{Hold, Ledger, LedgerError, PaymentId, ReserveError};
use prompts::Prompts;
pub use settings::Settings;
pub use stored::{StoredAsk, StoredQuestion, look, read};
pub use wait::{Taken, Wait};

/// Everybody who is asked, and by whom.
#[derive(Clone)]
pub struct Questions(Arc<Shared>);

struct Shared {
    backend: Arc<dyn Backend>,
    /// The same, where the operator is asked.
    operator: Option<Arc<Operator>>,
    /// Who is asked, where limits.toml names nobody.
    approver: Option<String>,
    settings: Settings,
    folder: PathBuf,
    ledger: Arc<dyn Ledger>,
    notifier: Arc<dyn Notifier>,
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

/// What makes two questions one (approvals §7).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asker {
    agent: String,
    intent: [u8; 32],
}

/// One payment's question that has not ended, put to one person or to several.
struct Row {
    /// The payment's.
    id: PaymentId,
    agent: String,
    /// What is asked; of several approvers it names all.
    intent: ApprovalIntent,
    /// Why anybody is asked: path in limits.toml.
    rule: String,
    asks: Vec<Ask>,
    /// So many of them must approve. One who denies it denies it for all.
    needed: usize,
    /// Who may not approve.
    owners: Vec<String>,
    /// Of the request that asked first.
    idempotency: Option<[u8; 32]>,
    ends: Timestamp,
    stage: watch::Sender<Stage>,
}

/// The question as one person has it.
struct Ask {
    question: Question,
    /// By which the backend knows it.
    handle: OnceLock<String>,
    /// Look at the backend now.
    wake: Notify,
    /// The look that is made then is the last one.
    is_last: AtomicBool,
}

/// How far a question has come.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Money is being set aside, the backend is being told.
    Asking,
    Open,
    /// Whoever waits may take it, until then.
    Approved {
        use_by: Timestamp,
    },
    /// One request has it.
    Taken {
        use_by: Timestamp,
    },
    Over(Over),
}

/// How a question ended.
#[derive(Clone, Debug)]
pub enum Over {
    Used,
    /// Nobody was asked: the limits or the books did not let it.
    NotHeld(ReserveError),
    /// Nobody was asked: the same is asked under this id, by another proxy on the same books.
    AskedAlready(PaymentId),
    Denied(Denial),
    /// Nobody answered, or what was approved was not used.
    Expired,
    Failed(Failure),
    NotRecorded(LedgerError),
}

/// What a request wants to have asked.
pub struct Wanted {
    pub hold: Hold,
    /// With [`Approvers::name`] as its approver.
    pub intent: ApprovalIntent,
    pub approvers: Approvers,
    /// Path in limits.toml of what makes it necessary.
    pub rule: String,
}

/// Why it is not asked.
pub enum NotAsked {
    /// A person said no a short while ago.
    Denied {
        denial: Denial,
        wait: Duration,
    },
    /// So many questions of this agent are open, or to this approver.
    TooManyOpen(usize),
    TooManyOpenTo(usize),
    /// So many were put within the hour.
    TooManyAsked {
        count: usize,
        wait: Duration,
    },
    /// The same question waits for a request under another `Idempotency-Key`.
    OtherKey(PaymentId),
}

#[derive(Clone)]
struct Denied {
    denial: Denial,
    until: Timestamp,
}

/// Who carries the questions.
pub enum Asks {
    Operator(Arc<Operator>),
    Service {
        backend: Arc<dyn Backend>,
        /// Who is asked, where limits.toml names nobody.
        approver: Option<String>,
    },
}

/// What all parts of the proxy share.
pub struct Services {
    pub folder: PathBuf,
    pub ledger: Arc<dyn Ledger>,
    pub notifier: Arc<dyn Notifier>,
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
            clock,
            tasks,
            stop,
            state: Mutex::default(),
        }))
    }

    /// Takes up what an earlier run left: open questions go on, approvals wait for their use, denials hold.
    pub async fn resume(&self) -> Result<(), LedgerError> {
        // Looked at first: what ends in between is no longer in the books, or is here.
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

    /// As [`Questions::resume`], once the books can be read: those in a database come back by themselves.
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
                    Err(error) => tracing::debug!(%error, "what was asked before cannot be read yet"),
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// A denial of which the books tell the end and nothing else.
    fn remember(&self, asker: Asker, until: Timestamp) {
        let denial = Denial::default();
        self.state()
            .denied
            .entry(asker)
            .and_modify(|denied| denied.until = denied.until.max(until))
            .or_insert(Denied { denial, until });
    }

    /// Look at the backend now: it has said, by `handle`, that there is an answer.
    pub fn wake(&self, handle: &str) {
        for ask in self.state().live.values().flat_map(|row| &row.asks) {
            // One that has no handle yet may be meant: the answer can be quicker than the disk.
            if ask.handle.get().is_none_or(|known| known == handle) {
                ask.wake.notify_one();
            }
        }
    }

    /// Payments that wait for a person: their idempotency keys are not taken yet.
    pub fn holds(&self, rid: PaymentId) -> bool {
        self.state().live.values().any(|row| row.id == rid)
    }

    /// Whether nothing of this agent's is open, or was denied: then none of its questions need be made to be looked up.
    pub fn knows_nothing_of(&self, agent: &str) -> bool {
        let state = self.state();
        !state
            .live
            .keys()
            .chain(state.denied.keys())
            .any(|asker| asker.agent == agent)
    }

    /// Whether this is open, or was denied a short while ago.
    pub fn knows(&self, agent: &str, intent: &ApprovalIntent) -> bool {
        let asker = Asker {
            agent: agent.to_owned(),
            intent: intent.hash(),
        };
        let (now, state) = (self.0.clock.now(), self.state());
        let is_denied = state.denied.get(&asker).is_some_and(|denied| denied.until > now);
        is_denied || state.live.contains_key(&asker)
    }

    /// Joins the question that is the same, or asks.
    pub fn ask(&self, wanted: Wanted) -> Result<Wait, NotAsked> {
        let Wanted {
            hold,
            intent,
            approvers,
            rule,
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
            return Err(NotAsked::TooManyOpen(open));
        }
        for approver in &approvers.names {
            let asks = state.live.values().flat_map(|row| &row.asks);
            let open = asks.filter(|ask| ask.approver() == approver).count();
            if open >= settings.max_pending_per_approver {
                return Err(NotAsked::TooManyOpenTo(open));
            }
        }
        for (done, approver) in approvers.names.iter().enumerate() {
            let by = (asker.agent.clone(), approver.clone());
            if let Err(wait) = state.prompts.note(by, settings.prompts_per_hour, now) {
                for approver in &approvers.names[..done] {
                    state.prompts.take_back(&(asker.agent.clone(), approver.clone()));
                }
                let count = settings.prompts_per_hour;
                return Err(NotAsked::TooManyAsked { count, wait });
            }
        }
        // R43: the approver's time begins where the agent's hold ends.
        let ttl = (settings.hold + settings.ttl).min(LONGEST_TTL);
        let row = Row::new(&hold, intent, approvers, rule, ttl, later(now, ttl));
        state.live.insert(asker, row.clone());
        drop(state);
        let (questions, carried) = (self.clone(), row.clone());
        shared.tasks.spawn(async move { questions.put(carried, hold).await });
        Ok(self.watching(row))
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

/// Between two looks at books that could not be read: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// R43.
const LONGEST_TTL: Duration = Duration::from_secs(600);

impl Row {
    fn new(
        hold: &Hold,
        intent: ApprovalIntent,
        approvers: Approvers,
        rule: String,
        ttl: Duration,
        ends: Timestamp,
    ) -> Arc<Self> {
        let usd_cents = cents(hold.terms.usd.get());
        let question = |id, intent: ApprovalIntent| Question {
            id,
            sentence: intent.sentence(&intent.amount()),
            compact: intent.compact(&intent.amount()),
            usd_cents,
            intent,
            ttl,
        };
        let questions = match approvers.names.as_slice() {
            [_] => vec![question(hold.rid, intent.clone())],
            names => names
                .iter()
                .map(|name| question(hold.rid.part(name), intent.to(name)))
                .collect(),
        };
        Arc::new(Self {
            id: hold.rid,
            agent: hold.agent.clone(),
            intent,
            rule,
            asks: questions.into_iter().map(Ask::new).collect(),
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
    fn new(question: Question) -> Self {
        Self {
            question,
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

/// What is kept of an answer, by its hash in the books.
pub fn evidence_bytes(evidence: &Evidence) -> Vec<u8> {
    serde_json::to_vec(evidence).unwrap_or_default()
}
