//! Host names: how they are looked up, shared and kept. What is kept are the raw answers; whether an address may be
//! dialled is checked at every use (threats 2.1, 2.2).
//!
//! * The two families are asked separately. Once one has answered, the other is awaited for 50 ms; what comes later
//!   joins the same answer.
//! * An answer is used for 30 s, by all agents, and takes nobody's part of the look-ups.
//! * Equal look-ups under way are one. Only a young one is joined, so nobody inherits another's wait.
//! * When the name servers fail, the last good answer goes on: as long as a tunnel holds it, and some time after.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use bursar_core::agent_name::AgentName;
use bursar_core::host::Host;

use crate::dial::class::{AddressClass, classify};
use crate::shares::{Full, Share, Shares};

pub use system::{Family, Looking, NameFault, Resolver, SystemResolver};

mod system;
#[cfg(test)]
mod tests;

/// How long an answer is used.
const AGE: Duration = Duration::from_secs(30);
/// "Resolution Delay" of RFC 8305 §3. Both families get it: the more is known, the more is checked.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// A look-up that has been under way for longer is not joined: its resolver may hang where ours would not.
const YOUNG: Duration = Duration::from_secs(1);
/// "Client response timer" of RFC 8767 §5: how long an answer that is too old waits for a new one.
const STALE_WAIT: Duration = Duration::from_millis(1800);
/// How long an answer that no tunnel holds may stand in for one that cannot be had: as long as a kept connection or an
/// idle tunnel lives.
const STALE: Duration = Duration::from_secs(600);
/// Names that are kept.
const MOST: usize = 1024;

/// Cheap to clone; clones share what they know.
#[derive(Clone)]
pub(crate) struct Names {
    resolver: Arc<dyn Resolver>,
    places: Places,
    patience: Duration,
    kept: Arc<Cache<Host, Arc<Known>, UnitWeighter, DefaultHashBuilder, KeepHeld>>,
}

/// How many look-ups there may be under way. The system's resolver blocks a thread for each, and cannot be stopped.
#[derive(Clone)]
pub(crate) struct Places {
    pub(crate) first: Shares,
    /// For the second family of addresses. Where it is not answered, they end long after the first.
    pub(crate) second: Shares,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unresolved {
    Fault(NameFault),
    /// Nothing has come for so long.
    Late(Duration),
    Full(Full),
}

impl From<NameFault> for Unresolved {
    fn from(fault: NameFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Full> for Unresolved {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

/// The addresses of a name, in the order in which they should be tried; not checked.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) addresses: Vec<IpAddr>,
    /// The other family has not answered yet.
    pub(crate) rest: Option<Rest>,
    /// While somebody has this, the answer is kept.
    pub(crate) hold: Arc<Known>,
}

/// The answer that is still to come.
#[derive(Clone, Debug)]
pub(crate) struct Rest(watch::Receiver<Found>);

/// What is known about a name.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The newest look-up under way.
    asking: Option<Question>,
    good: Option<Good>,
}

/// An answer with an address in it.
#[derive(Clone, Debug)]
struct Good {
    question: Question,
    since: Instant,
}

#[derive(Clone, Debug)]
struct Question {
    began: Instant,
    /// Whether both families are asked for. Half an answer is for its caller alone.
    is_whole: bool,
    found: watch::Receiver<Found>,
}

/// What the families have answered so far.
#[derive(Clone, Debug, Default)]
struct Found {
    v4: Option<Half>,
    v6: Option<Half>,
    /// Which comes first, once both have an address.
    v6_is_preferred: bool,
}

type Half = Result<Vec<IpAddr>, NameFault>;

/// What a tunnel holds stays.
#[derive(Clone, Debug)]
struct KeepHeld;

impl Lifecycle<Host, Arc<Known>> for KeepHeld {
    type RequestState = ();

    fn is_pinned(&self, _: &Host, known: &Arc<Known>) -> bool {
        Arc::strong_count(known) > 1
    }
}

impl Names {
    pub(crate) fn new(resolver: Arc<dyn Resolver>, places: Places, patience: Duration) -> Self {
        let kept = Cache::with(MOST, MOST as u64, UnitWeighter, DefaultHashBuilder::default(), KeepHeld);
        Self {
            resolver,
            places,
            patience,
            kept: Arc::new(kept),
        }
    }

    pub(crate) async fn lookup(&self, agent: &AgentName, host: &Host) -> Result<Answer, Unresolved> {
        self.lookup_within(self.patience, agent, host).await
    }

    pub(crate) async fn lookup_within(
        &self,
        patience: Duration,
        agent: &AgentName,
        host: &Host,
    ) -> Result<Answer, Unresolved> {
        let known = self.known(host);
        if let Some(answer) = known.fresh() {
            return Ok(answer);
        }
        let Some(stale) = known.stale() else {
            return self.ask(agent, host, &known, YOUNG, patience).await;
        };
        // A caller that joins a look-up which others wait for in vain waits no longer than they do.
        let waited = known
            .asking()
            .map_or(Duration::ZERO, |question| question.began.elapsed());
        let wait = STALE_WAIT.saturating_sub(waited).min(patience);
        match self.ask(agent, host, &known, self.patience, wait).await {
            Ok(answer) => Ok(answer),
            Err(Unresolved::Fault(why)) if why.is_final() => Err(why.into()),
            Err(_) => {
                tracing::debug!(%host, "the name servers fail; the last answer is used");
                Ok(stale)
            }
        }
    }

    /// For how long a look-up of this name has been waiting for an answer.
    pub(crate) fn waits_since(&self, host: &Host) -> Option<Duration> {
        let asking = self.kept.get(host)?.asking()?;
        let has_some = asking.found.borrow().addresses().is_ok();
        (!has_some).then(|| asking.began.elapsed())
    }

    fn known(&self, host: &Host) -> Arc<Known> {
        let made = self
            .kept
            .get_or_insert_with(host, || Ok::<_, std::convert::Infallible>(Arc::default()));
        match made {
            Ok(known) => known,
            Err(never) => match never {},
        }
    }

    /// Joins a look-up that began less than `young` ago, or begins one.
    async fn ask(
        &self,
        agent: &AgentName,
        host: &Host,
        known: &Arc<Known>,
        young: Duration,
        patience: Duration,
    ) -> Result<Answer, Unresolved> {
        let late = Instant::now() + patience;
        let joinable = || known.asking().filter(|question| question.began.elapsed() < young);
        let question = match joinable() {
            Some(question) => question,
            None => {
                // A caller that stops waiting before its turn leaves the queue, and nothing is asked for it.
                let share = match timeout_at(late, self.places.first.wait(agent)).await {
                    Ok(share) => share?,
                    Err(_) => return Err(self.places.first.why_full(agent).into()),
                };
                // Another may have asked meanwhile.
                if let Some(answer) = known.fresh() {
                    return Ok(answer);
                }
                joinable().unwrap_or_else(|| self.begin(host, known, share))
            }
        };
        // Its own time, from here on: a caller that waited long for its turn must not take an answer that is about to come
        // for none at all.
        question.answer(known, patience).await
    }

    /// In a task of its own: when nobody waits any more, the blocked threads live on, and count as long as they do.
    fn begin(&self, host: &Host, known: &Arc<Known>, share: Share) -> Question {
        // Each family blocks a thread. Where the second one hangs in too many look-ups of this agent, it is asked only for
        // names that need it, and in the first one's place.
        let second = self.places.second.take(share.agent(), 1).ok();
        let (sender, found) = watch::channel(Found::default());
        let question = Question {
            began: Instant::now(),
            is_whole: second.is_some(),
            found,
        };
        if question.is_whole {
            known.lock().asking = Some(question.clone());
        }
        let ask = |family| self.resolver.lookup(host.to_string(), family);
        let (v4, v6) = (ask(Family::V4), ask(Family::V6));
        // A look-up under way is nobody's hold on the last answer.
        let (known, asked) = (Arc::downgrade(known), question.clone());
        let came = move |sender: &watch::Sender<Found>, family, half| match known.upgrade() {
            Some(known) => known.came(&asked, sender, family, half),
            None => put(sender, family, half),
        };
        tokio::spawn(async move {
            let first = async {
                let half = v4.await;
                came(&sender, Family::V4, half);
            };
            match second {
                Some(second) => {
                    let first = async {
                        first.await;
                        drop(share);
                    };
                    let second = async {
                        let half = v6.await;
                        came(&sender, Family::V6, half);
                        drop(second);
                    };
                    tokio::join!(first, second);
                }
                None => {
                    first.await;
                    let has_one = matches!(sender.borrow().v4, Some(Ok(_)));
                    let half = match has_one {
                        true => Ok(Vec::new()),
                        false => v6.await,
                    };
                    came(&sender, Family::V6, half);
                    drop(share);
                }
            }
        });
        question
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> Option<Question> {
        self.lock().asking.clone().filter(Question::is_under_way)
    }

    fn fresh(self: &Arc<Self>) -> Option<Answer> {
        let good = self.lock().good.clone();
        let good = good.filter(|good| good.since.elapsed() < AGE)?;
        self.answer_of(&good.question.found)
    }

    fn stale(self: &Arc<Self>) -> Option<Answer> {
        let good = self.lock().good.clone();
        // Ours, and the cache's.
        let held = Arc::strong_count(self) > 2;
        let good = good.filter(|good| held || good.since.elapsed() < STALE)?;
        self.answer_of(&good.question.found)
    }

    fn answer_of(self: &Arc<Self>, found: &watch::Receiver<Found>) -> Option<Answer> {
        let now = found.borrow().clone();
        let rest = (!now.is_complete()).then(|| Rest(found.clone()));
        let addresses = now.addresses().ok()?;
        Some(Answer {
            addresses,
            rest,
            hold: self.clone(),
        })
    }

    /// One family has answered.
    fn came(&self, question: &Question, sender: &watch::Sender<Found>, family: Family, half: Half) {
        let mut state = self.lock();
        put(sender, family, half);
        let found = sender.borrow().clone();
        let is_newer = |than: &Good| than.question.began <= question.began;
        if question.is_whole && state.good.as_ref().is_none_or(is_newer) {
            match found.addresses() {
                Ok(_) => {
                    // The second family does not make the first one's answer younger.
                    let is_same = state.good.as_ref().is_some_and(|good| good.question.is(question));
                    if !is_same {
                        state.good = Some(Good {
                            question: question.clone(),
                            since: Instant::now(),
                        });
                    }
                }
                Err(fault) if found.is_complete() && fault.is_final() => state.good = None,
                Err(_) => {}
            }
        }
        if found.is_complete() && state.asking.as_ref().is_some_and(|asking| asking.is(question)) {
            state.asking = None;
        }
    }
}

fn put(sender: &watch::Sender<Found>, family: Family, half: Half) {
    sender.send_modify(|found| match family {
        Family::V4 => found.v4 = Some(half),
        Family::V6 => {
            let first = half.iter().flatten().find_map(|address| as_v6(*address));
            found.v6_is_preferred = first.is_some_and(is_preferred);
            found.v6 = Some(half);
        }
    });
}

impl Question {
    fn is(&self, other: &Self) -> bool {
        self.found.same_channel(&other.found)
    }

    /// Not, if its task has died.
    fn is_under_way(&self) -> bool {
        self.found.has_changed().is_ok() && !self.found.borrow().is_complete()
    }

    async fn answer(mut self, known: &Arc<Known>, patience: Duration) -> Result<Answer, Unresolved> {
        let died = || NameFault::System("the look-up was given up".to_owned());
        let some = self
            .found
            .wait_for(|found| found.is_complete() || found.addresses().is_ok());
        let some = timeout(patience, some).await.map_err(|_| Unresolved::Late(patience))?;
        some.map_err(|_| died())?;
        let all = self.found.wait_for(Found::is_complete);
        // The rest may come later.
        let _ = timeout(RESOLUTION_DELAY, all).await;
        let found = self.found.borrow().clone();
        let addresses = found.addresses().map_err(Unresolved::Fault)?;
        Ok(Answer {
            addresses,
            rest: (!found.is_complete()).then(|| Rest(self.found)),
            hold: known.clone(),
        })
    }
}

impl Rest {
    /// All addresses of both families, if the second one has answered.
    pub(crate) fn now(&self) -> Option<Vec<IpAddr>> {
        let found = self.0.borrow();
        found.is_complete().then(|| found.addresses().unwrap_or_default())
    }

    /// All addresses of both families. Pending for ever if there is no second answer.
    pub(crate) async fn all(mut self) -> Vec<IpAddr> {
        let complete = self.0.wait_for(Found::is_complete).await.map(|found| found.addresses());
        match complete {
            Ok(addresses) => addresses.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

impl Found {
    const fn is_complete(&self) -> bool {
        self.v4.is_some() && self.v6.is_some()
    }

    /// All that is known; an error if that is nothing.
    fn addresses(&self) -> Result<Vec<IpAddr>, NameFault> {
        let of = |half: &Option<Half>| {
            half.as_ref()
                .and_then(|half| half.as_ref().ok())
                .cloned()
                .unwrap_or_default()
        };
        let (v4, v6) = (of(&self.v4), of(&self.v6));
        match (v4.is_empty(), v6.is_empty()) {
            (false, true) => Ok(v4),
            (true, false) => Ok(v6),
            (false, false) if self.v6_is_preferred => Ok([v6, v4].concat()),
            (false, false) => Ok([v4, v6].concat()),
            (true, true) => {
                let fault = |half: &Option<Half>| half.as_ref().and_then(|half| half.as_ref().err()).cloned();
                Err(match (fault(&self.v4), fault(&self.v6)) {
                    (Some(v4), Some(v6)) => v4.of_both(v6),
                    (Some(fault), None) | (None, Some(fault)) => fault,
                    (None, None) => NameFault::NoAddress,
                })
            }
        }
    }
}

const fn as_v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// Whether IPv6 comes first, as far as RFC 6724 decides between the families: this machine must have a route, and an
/// address of the same reach to send from. Nothing is sent.
fn is_preferred(to: Ipv6Addr) -> bool {
    let source = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        // Any port: only the route is looked up.
        socket.connect(SocketAddr::from((to, 443)))?;
        Ok(socket.local_addr()?.ip())
    };
    source().is_ok_and(|source| {
        let source = classify(source);
        source == AddressClass::Global || source == classify(to.into())
    })
}
