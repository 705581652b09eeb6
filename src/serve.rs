//! Assembles the parts, accepts agents, watches the files, and shuts down in order.

mod approvals;
mod bkey;
mod callbacks;
mod clients;
mod earlier;
mod error;
mod listeners;
mod parts;
mod room;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin};
use crate::agents::{Registry, Roster};
use crate::alerts::{self, Alert, AlertDelivery, Alerts, Channel, QuestionNotifier, RaisedAlerts};
use crate::backup::restore;
use crate::config::Config;
use crate::config::people::People;
use crate::listen::Proxy;
use crate::listen::logins::Logins;
use crate::payment::consider::{Decider, Means};
use crate::payment::context::{Context, Purchasing, Times};
use crate::payment::guard::Traffic;
use crate::payment::idempotency::IdempotencyKeys;
use crate::payment::repeat::Repeats;
use crate::rules::{self, Rules};
use crate::store;
use approvals::{Opened, open_questions};
use bursar_approvals::questions::{Questions, Randomness, Services};
use bursar_core::assets::Network;
use bursar_core::clock::SharedClock;
use bursar_core::policy::Approvals;
use bursar_home::{self as home, Home, Readers, spare};
use bursar_ledger::{Ledger, Options, Pause, PaymentId, ShowStart};
use bursar_net::body::ReplayBudget;
use bursar_net::corporate::CorporateProxy;
use bursar_net::dial::{Dialer, Patience, SystemResolver};
use bursar_net::tls::authority::Authority;
use bursar_net::tls::leaf::{Leaves, ServerConfigs};
use bursar_net::tls::upstream::UpstreamTls;
use bursar_net::upstream::Upstreams;
use bursar_net::via::Via;
use bursar_rails::balances::Balances;
use bursar_rails::outstanding::Outstanding;
use bursar_rails::pay::{CardPayer, EvmPayer, Payers, Permissions};
use bursar_rails::rpc::Node;
use bursar_reconcile::{Keeper, Notice, Notices, Reconciler};
use earlier::{forget_tokens, outstanding};
pub(crate) use error::StartError;
pub(crate) use parts::{
    OpenIssuerError, OpenSitesError, OpenWalletError, nodes, open_issuer, open_wallet, upstream_tls,
};
use parts::{agents_tls, tls_acceptor};
use room::Room;

/// A proxy that accepts connections.
pub(crate) struct Running {
    pub address: SocketAddr,
    scheme: &'static str,
    home: Home,
    ledger: Arc<dyn Ledger>,
    rules: Arc<Rules>,
    outstanding: Outstanding,
    alerts: AlertDelivery,
    people: Option<Arc<People>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// How long streams, and payments that were sent, may take to end.
    bound: Duration,
}

/// What everything is built from: the files, the clock, and the shutdown signal.
struct Ground<'a> {
    home: &'a Home,
    clock: SharedClock,
    config: Config,
    tls: Arc<UpstreamTls>,
    channels: Vec<Channel>,
    alerts: Alerts,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The sockets that are open from the start.
struct Doors {
    agents: TcpListener,
    address: SocketAddr,
    callbacks: Option<TcpListener>,
    people: Option<UnixListener>,
}

/// Starts a proxy on the data directory. It accepts when this returns. `show` receives what a long start does.
pub(crate) async fn start(home: &Home, clock: SharedClock, show: ShowStart) -> Result<Running, StartError> {
    room::raise_limit();
    home.require_initialised()?;
    restore::require_accepted(home)?;
    home.require_owned()?;
    // Before anything else can use them up.
    spare::set_aside().map_err(StartError::Descriptors)?;
    home.create_run()?;
    let config = Config::load(home.root())?;
    for path in config.certificates() {
        home.require_owned_if_here(path)?;
    }
    let (rules, loaded) = Rules::load(config.limits.clone(), Registry::new(home))?;
    let logins = Logins::new(Roster::load(home)?);
    let authority = Authority::load(home, clock.now())?;
    warn_of_end(&authority, &clock);
    let (ground, raised) = ground(home, clock, config)?;
    let agents_tls = Arc::new(agents_tls(&ground.config, home, &ground.tls)?);
    let payers = payers(&ground).await?;
    let acceptor = tls_acceptor(&ground.config)?;
    // The lock on the directory comes first: a second server must fail because of it and not touch the port.
    let ledger = open_ledger(&ground, show).await?;
    let mut doors = open_doors(&ground.config)?;

    let (rules, address) = (Arc::new(rules.alerting(ground.alerts.clone())), doors.address);
    // What can fail comes before anything is recorded or begun.
    let server_tls = ServerConfigs::new(Arc::new(Leaves::new(authority, ground.clock.clone())?))?;
    // Behind another proxy an own address cannot be told by its number.
    let says_via = ground.config.proxy.via || ground.tls.proxy().is_some();
    let via = says_via.then(Via::random).transpose();
    let via = via.map_err(StartError::Random)?;
    let room = Room::divide(ground.config.capacity)?;
    let dialer = dialer(&ground, &doors, &room).await?;
    let balances = watch_balances(&ground, &payers);
    let outstanding = outstanding(home, &*ledger, &ground.clock).await?;
    let questions = questions(&ground, &ledger, doors.callbacks.take(), room.callbacks).await?;
    let keys = idempotency_keys(&ground, &*ledger).await;
    if let Some(issuer) = &payers.issuer {
        forget_tokens(issuer.tokens(), &*ledger, ground.clock.now()).await;
    }
    let reconciler = Arc::new(reconciler(&ground, &ledger, &payers, &outstanding));
    rules::record(&*ledger, loaded).await;
    for (pause, _) in ledger.pauses() {
        let Pause { scope, since, who, why } = pause;
        tracing::warn!(%scope, since = %since.timestamp(), who, why, "payments are paused, until `bursar resume` lifts it");
    }

    let proven = reconciler.networks().collect();
    let proxy = Arc::new(Proxy {
        clock: ground.clock.clone(),
        logins,
        server_tls,
        upstreams: Upstreams::new(dialer, agents_tls, ground.config.timeouts),
        intercept: ground.config.intercept.clone(),
        timeouts: ground.config.timeouts,
        room: room.listen(),
        listeners: vec![address],
        context: Arc::new(context(
            &ground,
            Parts {
                ledger: ledger.clone(),
                rules: rules.clone(),
                payers,
                balances,
                questions: questions.clone(),
                outstanding: outstanding.clone(),
                keys,
                proven,
                nodes: reconciler.nodes.clone(),
                via,
            },
        )),
    });
    let admin = Arc::new(Admin {
        ledger: ledger.clone(),
        proxy: proxy.clone(),
        home: home.clone(),
        rules: rules.clone(),
        alerts: ground.alerts.clone(),
        outstanding: outstanding.clone(),
        questions,
        reconciler: reconciler.clone(),
        reconciling: tokio::sync::Semaphore::new(admin::RECONCILING),
        folding: Arc::new(tokio::sync::Semaphore::new(admin::FOLDING)),
        tasks: ground.tasks.clone(),
        stop: ground.stop.clone(),
    });
    let commands = admin::bind(home).map_err(|source| StartError::Admin {
        path: home.admin_socket(),
        source,
    })?;
    if let (Some(listener), Some(people)) = (doors.people.take(), &ground.config.people) {
        ground
            .tasks
            .spawn(admin::serve_people(admin.clone(), listener, people.clone()));
    }
    ground.tasks.spawn(admin::serve(admin, commands));
    let delivery = raised.send(ledger.clone(), &ground.channels);
    let watching = (ground.alerts.clone(), ledger.clone(), ground.clock.clone());
    ground.tasks.spawn(alerts::watch::payments(
        watching.0,
        watching.1,
        watching.2,
        ground.stop.clone(),
    ));
    if !proxy.intercept.is_everything() {
        tracing::info!(hosts = %proxy.intercept, "TLS with these hosts passes through unread, and nothing is paid there");
    }
    ground.tasks.spawn(keep_watch(proxy.clone()));
    // Outstanding payments of an earlier run are loaded before the first payment (R216).
    let tasks = ground.tasks.clone();
    Keeper::new(reconciler)
        .start(|keeping| drop(tasks.spawn(keeping)))
        .await;
    ground.tasks.spawn(listeners::accept(proxy, doors.agents, acceptor));
    home::write_atomic(&home.listen(), format!("{address}\n").as_bytes(), Readers::Owner)?;
    let timeouts = &ground.config.timeouts;
    Ok(Running {
        address,
        scheme: if ground.config.proxy.tls.is_some() {
            "https"
        } else {
            "http"
        },
        home: home.clone(),
        ledger,
        rules,
        outstanding,
        alerts: delivery,
        people: ground.config.people.clone(),
        stop: ground.stop,
        tasks: ground.tasks,
        bound: timeouts.drain.max(timeouts.settle_wait),
    })
}

impl Running {
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Reloads `limits.toml` if it changed.
    pub(crate) async fn refresh_rules(&self) {
        self.rules.refresh(&*self.ledger).await;
    }

    pub(crate) fn ledger(&self) -> &dyn Ledger {
        &*self.ledger
    }

    /// Accepts no new connections; what is running gets its bound (R65): payments that were sent `settle_wait`, streams
    /// `drain`.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        match timeout(self.bound, self.tasks.wait()).await {
            Ok(()) => self.outstanding.end(),
            Err(_) => tracing::warn!(
                seconds = self.bound.as_secs(),
                "some connections did not end in time and were cut"
            ),
        }
        // Work that ended just now may have raised alerts; they still go into the ledger.
        self.alerts.end().await;
        self.ledger.close().await;
        // A stale address would send `run` to a port that another program may have by then.
        let _ = std::fs::remove_file(self.home.listen());
        let _ = std::fs::remove_file(self.home.admin_socket());
        if let Some(people) = &self.people {
            let _ = std::fs::remove_file(&people.socket);
        }
    }
}

fn ground(home: &Home, clock: SharedClock, config: Config) -> Result<(Ground<'_>, RaisedAlerts), StartError> {
    let tls = Arc::new(upstream_tls(&config, home.root())?);
    let channels = alerts::channels(&config.alerts, home.root().to_owned(), &tls).map_err(StartError::Alerts)?;
    let (alerts, raised) = Alerts::new(clock.clone());
    let ground = Ground {
        home,
        clock,
        config,
        tls,
        channels,
        alerts,
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    Ok((ground, raised))
}

async fn payers(ground: &Ground<'_>) -> Result<Payers, StartError> {
    Ok(Payers {
        wallet: wallet(&ground.config, ground.home, &ground.tls).await?,
        issuer: open_issuer(&ground.config, ground.home, &ground.tls)?,
    })
}

async fn open_ledger(ground: &Ground<'_>, show: ShowStart) -> Result<Arc<dyn Ledger>, StartError> {
    // `init` creates it: if it is missing, the ledger is gone, and a new one would count from zero.
    let audit = ground.home.audit();
    if !audit.is_dir() {
        return Err(StartError::NoLedger(audit));
    }
    let mut options = Options::new(ground.clock.clone());
    options.alarms = ground.alerts.alarms();
    options.unsigned_max = ground.config.log.unsigned_max;
    options.show_start = show;
    Ok(store::open(&ground.config, ground.home, options).await?)
}

fn open_doors(config: &Config) -> Result<Doors, StartError> {
    let (asked, people) = (config.proxy.listen, config.people.as_ref());
    let agents = listeners::listen(asked)?;
    let address = agents
        .local_addr()
        .map_err(|source| StartError::Listen { address: asked, source })?;
    Ok(Doors {
        agents,
        address,
        callbacks: listeners::open_callbacks(config)?,
        people: people.map(|people| admin::bind_people(&people.socket)).transpose()?,
    })
}

async fn dialer(ground: &Ground<'_>, doors: &Doors, room: &Room) -> Result<Dialer, StartError> {
    let config = &ground.config;
    // Our own listeners are not sites that agents may reach through the proxy.
    let callbacks = doors.callbacks.iter().filter_map(|listener| listener.local_addr().ok());
    let own = [doors.address].into_iter().chain(callbacks).collect();
    let dialer = Dialer::new(
        Arc::new(SystemResolver),
        config.upstream.allow_private.clone(),
        own,
        Patience {
            resolve: config.timeouts.dns,
            connect: config.timeouts.dial,
        },
        room.dial(),
    );
    let proxy = ground.tls.proxy();
    if let Some(proxy) = proxy {
        require_other(&dialer, proxy).await?;
    }
    Ok(dialer.behind(proxy.cloned()))
}

/// Refuses an upstream proxy that is this one. If its name cannot be resolved now, that is checked when it is dialled.
async fn require_other(dialer: &Dialer, proxy: &CorporateProxy) -> Result<(), StartError> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let found = timeout(PATIENCE, tokio::net::lookup_host((proxy.host().as_str(), proxy.port()))).await;
    let Ok(Ok(found)) = found else {
        tracing::warn!(?proxy, "the upstream proxy's name cannot be resolved at the moment");
        return Ok(());
    };
    match found.into_iter().find(|address| dialer.is_own(*address)) {
        Some(own) => Err(StartError::OwnProxy(own)),
        None => Ok(()),
    }
}

fn watch_balances(ground: &Ground<'_>, payers: &Payers) -> Balances {
    let balances = Balances::default();
    if let Some(wallet) = &payers.wallet {
        let (alerts, threshold) = (ground.alerts.clone(), ground.config.alerts.low_wallet);
        let seen = move |network, held| alerts::watch::wallet(&alerts, threshold, network, held);
        let watching = balances.clone().watch(
            nodes(&ground.config),
            ground.tls.clone(),
            wallet.address(),
            seen,
            ground.stop.clone(),
        );
        ground.tasks.spawn(watching);
    }
    balances
}

async fn questions(
    ground: &Ground<'_>,
    ledger: &Arc<dyn Ledger>,
    callbacks: Option<TcpListener>,
    callbacks_at_a_time: usize,
) -> Result<Option<Questions>, StartError> {
    let notifier = QuestionNotifier::new(ground.channels.clone(), ground.clock.clone(), ground.alerts.clone());
    let services = Services {
        folder: ground.home.approvals(),
        ledger: ledger.clone(),
        notifier: Arc::new(notifier),
        randomness: Randomness::of_system(),
        clock: ground.clock.clone(),
        tasks: ground.tasks.clone(),
        stop: ground.stop.clone(),
    };
    let Some(Opened { questions, caller }) = open_questions(&ground.config, ground.home, &ground.tls, services).await?
    else {
        return Ok(None);
    };
    if let (Some(listener), Some(caller)) = (callbacks, caller) {
        let (tasks, stop) = (ground.tasks.clone(), ground.stop.clone());
        let listening = callbacks::serve(listener, caller, questions.clone(), callbacks_at_a_time, tasks, stop);
        ground.tasks.spawn(listening);
    }
    Ok(Some(questions))
}

/// The keys under which payments were made.
async fn idempotency_keys(ground: &Ground<'_>, ledger: &dyn Ledger) -> IdempotencyKeys {
    // An unreachable shared ledger knows them better than this proxy; it refuses a second payment under one.
    let held = ledger.keys().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the idempotency keys in use could not be read yet");
        Vec::new()
    });
    // A payment that only waits for a person is not paid yet, whichever proxy asked: the same request again continues
    // it.
    let asked = ledger.approvals().await.unwrap_or_default();
    let waiting: HashSet<PaymentId> = asked.live.iter().chain(&asked.elsewhere).map(|row| row.rid).collect();
    let held = held.into_iter().filter(|hold| !waiting.contains(&hold.rid)).collect();
    IdempotencyKeys::new(held, ground.clock.clone())
}

fn reconciler(ground: &Ground<'_>, ledger: &Arc<dyn Ledger>, payers: &Payers, outstanding: &Outstanding) -> Reconciler {
    Reconciler {
        ledger: ledger.clone(),
        home: ground.home.clone(),
        nodes: nodes(&ground.config),
        issuer: payers.issuer.as_ref().and_then(CardPayer::account),
        settle_wait: ground.config.timeouts.settle_wait,
        tls: ground.tls.clone(),
        clock: ground.clock.clone(),
        outstanding: Some(outstanding.clone()),
        wallet: payers.wallet.as_ref().map(EvmPayer::address),
        notices: notices(&ground.alerts),
        stop: ground.stop.clone(),
        turn: tokio::sync::Mutex::default(),
    }
}

/// What the stages of a request share.
struct Parts {
    ledger: Arc<dyn Ledger>,
    rules: Arc<Rules>,
    payers: Payers,
    balances: Balances,
    questions: Option<Questions>,
    outstanding: Outstanding,
    keys: IdempotencyKeys,
    proven: BTreeSet<Network>,
    nodes: BTreeMap<Network, Vec<Node>>,
    via: Option<Via>,
}

fn context(ground: &Ground<'_>, parts: Parts) -> Context {
    let config = &ground.config;
    let settle_wait = config.timeouts.settle_wait;
    Context {
        traffic: Traffic {
            agent_payments: config.proxy.agent_payments,
            via: parts.via,
            replay_budget: ReplayBudget::new(config.capacity.upload_memory),
            drain: config.timeouts.drain,
        },
        decider: Decider {
            rules: parts.rules.clone(),
            ledger: parts.ledger.clone(),
            clock: ground.clock.clone(),
            balances: parts.balances,
            approvals: parts.questions.as_ref().map_or(Approvals::None, Questions::approvals),
            means: Means::of(&parts.payers),
            networks: config.networks.keys().copied().collect(),
            proven: parts.proven,
            allow_http_payments: config.upstream.allow_http_payments.clone(),
            agent_payments: config.proxy.agent_payments,
        },
        repeats: Repeats {
            outstanding: parts.outstanding.clone(),
            keys: parts.keys,
            ledger: parts.ledger.clone(),
            settle_wait,
            tasks: ground.tasks.clone(),
        },
        purchasing: Purchasing {
            ledger: parts.ledger,
            clock: ground.clock.clone(),
            rules: parts.rules,
            payers: parts.payers,
            permissions: Permissions::default(),
            nodes: parts.nodes,
            tls: ground.tls.clone(),
            questions: parts.questions,
            outstanding: parts.outstanding,
            times: Times {
                hold: config.approval.questions.hold,
                deny_cooldown: config.approval.questions.deny_cooldown,
                settle_wait,
            },
            pending_status: config.approval.pending_status,
        },
        tasks: ground.tasks.clone(),
        stop: ground.stop.clone(),
    }
}

/// Reloads files that others write, and removes what has expired.
async fn keep_watch(proxy: Arc<Proxy>) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (repeats, decider) = (&proxy.context.repeats, &proxy.context.decider);
    loop {
        tokio::select! {
            () = proxy.context.stop.cancelled() => return,
            _ = second.tick() => {}
        }
        proxy.logins.tend();
        proxy.upstreams.sweep();
        repeats.outstanding.sweep();
        repeats.keys.sweep();
        decider.rules.refresh(&*decider.ledger).await;
    }
}

/// The signer for EVM networks.
async fn wallet(config: &Config, home: &Home, tls: &Arc<UpstreamTls>) -> Result<Option<EvmPayer>, StartError> {
    let wallet = open_wallet(config, home, tls).await?;
    let Some(payer) = &wallet else {
        tracing::warn!("no [wallet.evm] in bursar.toml: nothing can be paid, 402 answers are passed on");
        return Ok(None);
    };
    if config.networks.is_empty() {
        tracing::warn!("no [networks] in bursar.toml: nothing can be paid, 402 answers are passed on");
    } else {
        let networks: Vec<String> = config.networks.keys().map(ToString::to_string).collect();
        tracing::info!(wallet = %payer.address(), networks = networks.join(","), "ready to pay");
    }
    if let EvmPayer::Bkey(signer) = payer {
        let (token, network) = (signer.token().symbol, signer.token().network());
        tracing::info!(token, %network, "BKey signs; it pays whole US cents only");
    }
    Ok(wallet)
}

/// Raises an alert at once for what the chain reports against the ledger.
fn notices(alerts: &Alerts) -> Notices {
    let alerts = alerts.clone();
    Arc::new(move |notice| {
        alerts.raise(match notice {
            Notice::Disputed { rid, why } => Alert::Dispute { rid, why },
            Notice::Outflow(outflow) => Alert::Outflow(outflow),
        });
    })
}

fn warn_of_end(authority: &Authority, clock: &SharedClock) {
    if authority.expires_soon(clock.now()) {
        let days = authority.not_after().duration_since(clock.now()).as_hours() / 24;
        tracing::warn!(
            days,
            "the CA expires soon; run `bursar ca rotate` and give agents the new ca.pem"
        );
    }
}
