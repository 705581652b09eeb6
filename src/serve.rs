//! Puts the parts together, accepts agents, keeps watch over the files, and ends in order.

mod approvals;
mod bkey;
mod callbacks;
mod clients;
mod earlier;
mod parts;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::agents::{AgentsError, Roster};
use crate::alerts::{self, Alert, AlertDelivery, Alerts, QuestionNotifier};
use crate::backup::restore::{self, NotAccepted};
use crate::config::approval::Backend;
use crate::config::{Config, ConfigError, SecretError};
use crate::listen::logins::Logins;
use crate::listen::proxy::{self, Proxy};
use crate::payment::idempotency::IdempotencyKeys;
use crate::rules::{Look, Rules};
use crate::store::{self, StoreError};
use approvals::{OpenQuestionsError, Opened, open_questions};
use bursar_approvals::questions::Services;
use bursar_core::clock::SharedClock;
use bursar_home::{self as home, Home, HomeError, Readers};
use bursar_ledger::{Event, Ledger, Options, PaymentId};
use bursar_net::body::ReplayBudget;
use bursar_net::dial::{Dialer, Patience, SystemResolver};
use bursar_net::tls::authority::{Authority, AuthorityError};
use bursar_net::tls::leaf::{Leaves, ListenerTlsError, ServerConfigs};
use bursar_net::tls::upstream::{TrustError, UpstreamTls};
use bursar_net::upstream::Upstreams;
use bursar_net::via::Via;
use bursar_rails::balances::Balances;
use bursar_rails::pay::{CardPayer, EvmPayer, Payers, Permissions};
use bursar_reconcile::{Keeper, Notice, Notices, Reconciler};
use earlier::{forget_tokens, outstanding};
use parts::tls_acceptor;
pub use parts::{OpenIssuerError, OpenWalletError, nodes, open_issuer, open_wallet, trust, upstream_tls};

/// Agents start many tools at once; the default of 128 pending connections is soon full (R229).
const BACKLOG: u32 = 1024;

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Agents(#[from] AgentsError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Tls(#[from] TrustError),
    #[error("{section}: {0}", section = .0.section())]
    Wallet(#[from] OpenWalletError),
    #[error("[stripe]: {0}")]
    Stripe(#[from] OpenIssuerError),
    #[error("[alerts]: {0}")]
    Alerts(SecretError),
    #[error(transparent)]
    Questions(#[from] OpenQuestionsError),
    #[error("the TLS listener: {0}")]
    Listener(#[from] ListenerTlsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{path} is missing, and with it everything that was spent: restore it; to begin new books, create an empty folder there",
        path = .0.display()
    )]
    NoBooks(PathBuf),
    #[error(transparent)]
    NotAccepted(#[from] NotAccepted),
    #[error("cannot listen on {address}: {source}{}", way_out(source))]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot listen on {address}, as `callbacks` under [approval] says: {source}")]
    Callbacks { address: SocketAddr, source: io::Error },
    #[error("the operating system gave no random bytes: {0}")]
    Random(io::Error),
    #[error("cannot open the admin socket {path}: {source}{}", shorter(path), path = path.display())]
    Admin { path: PathBuf, source: io::Error },
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has this port: end it, or set another `listen` under [proxy] in bursar.toml"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: correct `listen` under [proxy] in bursar.toml"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 are for root: set another `listen` under [proxy] in bursar.toml"
        }
        _ => "",
    }
}

/// The kernel keeps a socket's path in a fixed place (unix(7)).
fn shorter(path: &Path) -> &'static str {
    const LONGEST: usize = 107;
    if path.as_os_str().len() > LONGEST {
        "; such paths have at most 107 bytes: use a data directory with a shorter path"
    } else {
        ""
    }
}

/// A proxy that accepts connections.
pub struct Running {
    pub address: SocketAddr,
    proxy: Arc<Proxy>,
    home: Home,
    drain: Duration,
    telling: AlertDelivery,
}

/// Starts a proxy on the data directory. It accepts when this returns.
pub async fn start(home: &Home, clock: SharedClock) -> Result<Running, StartError> {
    home.require_initialised()?;
    restore::require_accepted(home)?;
    home.create_run()?;
    let config = Config::load(home.root())?;
    let (rules, loaded) = Rules::load(home)?;
    let logins = Logins::new(Roster::load(home)?);
    let authority = Authority::load(home, clock.now())?;
    warn_of_end(&authority, &clock);
    let tls = Arc::new(upstream_tls(&config)?);
    let wallet = wallet(&config, home, &tls).await?;
    let issuer = open_issuer(&config, home, &tls)?;
    let acceptor = tls_acceptor(&config)?;
    let channels = alerts::channels(&config.alerts, home.root().to_owned(), &tls).map_err(StartError::Alerts)?;
    let (alerts, raised) = Alerts::new(clock.clone());

    // `init` made it: without it the books are gone, and new ones would count from nothing.
    if !home.audit().is_dir() {
        return Err(StartError::NoBooks(home.audit()));
    }
    // The lock on the directory comes first: a second server must fail for that reason and leave the port alone.
    let mut options = Options::new(clock.clone());
    options.alarms = alerts.alarms();
    let ledger = store::open(&config, home, options).await?;
    let asked = config.proxy.listen;
    let listener = listen(asked)?;
    let address = listener
        .local_addr()
        .map_err(|source| StartError::Listen { address: asked, source })?;
    let callbacks = open_callbacks(&config)?;
    // Neither is a site that agents are to reach through the proxy.
    let own = callbacks.iter().filter_map(|listener| listener.local_addr().ok());
    let own = [address].into_iter().chain(own).collect();
    let dialer = Dialer::new(
        Arc::new(SystemResolver),
        config.upstream.allow_private.clone(),
        own,
        Patience {
            resolve: config.timeouts.dns,
            connect: config.timeouts.dial,
        },
    );

    let (stop, tasks, balances) = (CancellationToken::new(), TaskTracker::new(), Balances::default());
    if let Some(wallet) = &wallet {
        let (alerts, threshold) = (alerts.clone(), config.alerts.low_wallet);
        let history = move |network, held| alerts::watch::wallet(&alerts, threshold, network, held);
        let watching = balances
            .clone()
            .watch(nodes(&config), tls.clone(), wallet.address(), history, stop.clone());
        tasks.spawn(watching);
    }
    let via = config.proxy.via.then(Via::random).transpose();
    let outstanding = outstanding(home, &*ledger, &clock).await?;
    // Shared books that are away know them better than this proxy; they refuse a second payment under one.
    let held = ledger.keys().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "which idempotency keys are held is not known yet");
        Vec::new()
    });
    let around = Services {
        folder: home.approvals(),
        ledger: ledger.clone(),
        notifier: Arc::new(QuestionNotifier::new(channels.clone(), clock.clone())),
        clock: clock.clone(),
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    let (questions, caller) = match open_questions(&config, home, &tls, around).await? {
        Some(Opened { questions, caller }) => (Some(questions), caller),
        None => (None, None),
    };
    if let (Some(listener), Some(caller), Some(questions)) = (callbacks, caller, &questions) {
        let hearing = callbacks::serve(listener, caller, questions.clone(), tasks.clone(), stop.clone());
        tasks.spawn(hearing);
    }
    // What only waits for a person is not paid yet, whichever proxy has asked: the same request again goes on with it.
    let asked = ledger.approvals().await.unwrap_or_default();
    let waiting: HashSet<PaymentId> = asked.live.iter().chain(&asked.elsewhere).map(|row| row.rid).collect();
    let held = held.into_iter().filter(|hold| !waiting.contains(&hold.rid)).collect();
    let keys = IdempotencyKeys::new(held, clock.clone());
    if let Some(issuer) = &issuer {
        forget_tokens(issuer.tokens(), &*ledger, clock.now()).await;
    }
    let reconciler = Arc::new(Reconciler {
        ledger: ledger.clone(),
        home: home.clone(),
        nodes: nodes(&config),
        issuer: issuer.as_ref().and_then(CardPayer::account),
        settle_wait: config.timeouts.settle_wait,
        tls: tls.clone(),
        clock: clock.clone(),
        outstanding: Some(outstanding.clone()),
        wallet: wallet.as_ref().map(EvmPayer::address),
        notices: notices(&alerts),
        stop: stop.clone(),
        turn: tokio::sync::Mutex::default(),
    });
    let proxy = Arc::new(Proxy {
        via: via.map_err(StartError::Random)?,
        networks: config.networks.keys().copied().collect(),
        proven: reconciler.networks().collect(),
        server_tls: ServerConfigs::new(Arc::new(Leaves::new(authority, clock.clone())?))?,
        upstreams: Upstreams::new(dialer, tls, config.timeouts),
        replay_budget: ReplayBudget::default(),
        listeners: vec![address],
        config,
        clock,
        logins,
        rules,
        outstanding,
        keys,
        ledger,
        reconciler,
        payers: Payers { wallet, issuer },
        permissions: Permissions::default(),
        questions,
        balances,
        alerts,
        tasks,
        stop,
    });
    record(&proxy, loaded).await;
    let drain = proxy.config.timeouts.drain;
    proxy.tasks.spawn(admin::serve(
        proxy.clone(),
        admin::bind(home).map_err(|source| StartError::Admin {
            path: home.admin_socket(),
            source,
        })?,
    ));
    let telling = raised.send(proxy.ledger.clone(), &channels);
    proxy.tasks.spawn(alerts::watch::payments(
        proxy.alerts.clone(),
        proxy.ledger.clone(),
        proxy.clock.clone(),
        proxy.stop.clone(),
    ));
    proxy.tasks.spawn(keep_watch(proxy.clone()));
    // What an earlier run left in doubt is looked at before the first payment (R216).
    let tasks = proxy.tasks.clone();
    Keeper::new(proxy.reconciler.clone())
        .start(|keeping| drop(tasks.spawn(keeping)))
        .await;
    proxy.tasks.spawn(accept(proxy.clone(), listener, acceptor));
    home::write_atomic(&home.listen(), format!("{address}\n").as_bytes(), Readers::Owner)?;
    Ok(Running {
        address,
        proxy,
        home: home.clone(),
        drain,
        telling,
    })
}

impl Running {
    pub fn url(&self) -> String {
        let scheme = if self.proxy.config.proxy.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    pub async fn look_at_rules(&self) {
        look_at_rules(&self.proxy).await;
    }

    pub fn ledger(&self) -> &dyn Ledger {
        &*self.proxy.ledger
    }

    /// No new connections; what runs gets its bound (R65): payments that are sent `settle_wait`, streams `drain`.
    pub async fn stop(self) {
        self.proxy.stop.cancel();
        self.proxy.tasks.close();
        let bound = self.drain.max(self.proxy.config.timeouts.settle_wait);
        match timeout(bound, self.proxy.tasks.wait()).await {
            Ok(()) => self.proxy.outstanding.end(),
            Err(_) => tracing::warn!(
                seconds = bound.as_secs(),
                "some connections did not end in time and are cut"
            ),
        }
        // What ended just now may have raised some; they still go into the books.
        self.telling.end().await;
        self.proxy.ledger.close().await;
        // A stale address would send `run` to a port that somebody else may have by then.
        let _ = std::fs::remove_file(self.home.listen());
        let _ = std::fs::remove_file(self.home.admin_socket());
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    bind(address).map_err(|source| StartError::Listen { address, source })
}

/// Where a backend may say that there is an answer, if there is one that does.
fn open_callbacks(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let address = match (config.approval.callbacks, &config.approval.backend) {
        (None, _) | (_, Backend::None | Backend::Operator) => return Ok(None),
        (Some(address), Backend::Ciba(_) | Backend::Keyra(_)) => address,
    };
    let failed = |source| StartError::Callbacks { address, source };
    let listener = bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "calls of the approval backend are heard");
    Ok(Some(listener))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(proxy: Arc<Proxy>, listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    loop {
        let accepted = tokio::select! {
            () = proxy.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (serving, acceptor) = (proxy.clone(), acceptor.clone());
                proxy.tasks.spawn(agent_connection(serving, stream, peer, acceptor));
            }
            Err(error) => {
                // Most likely no file descriptors: give those that exist time to end.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Without this small answers wait 40 ms for an acknowledgement (R226).
fn prompt(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn agent_connection(proxy: Arc<Proxy>, stream: TcpStream, peer: SocketAddr, acceptor: Option<TlsAcceptor>) {
    let stream = match prompt(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, %peer, "connection lost at once"),
    };
    let Some(acceptor) = acceptor else {
        return proxy::serve(proxy, stream, peer).await;
    };
    let handshake = timeout(proxy.config.timeouts.hello, acceptor.accept(stream));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = proxy.stop.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => proxy::serve(proxy, stream, peer).await,
        Ok(Err(error)) => tracing::debug!(%error, %peer, "no TLS on the TLS listener"),
        Err(_) => tracing::debug!(%peer, "no TLS handshake in time"),
    }
}

/// Files that others write, and what grows old.
async fn keep_watch(proxy: Arc<Proxy>) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = proxy.stop.cancelled() => return,
            _ = second.tick() => {}
        }
        proxy.logins.tend();
        proxy.upstreams.sweep();
        proxy.outstanding.sweep();
        proxy.keys.sweep();
        look_at_rules(&proxy).await;
    }
}

/// Reads `limits.toml` again if it changed.
pub async fn look_at_rules(proxy: &Proxy) {
    match proxy.rules.look() {
        Look::Unchanged => {}
        Look::Loaded(event, pending) => {
            // In this order, so that no payment names limits that the books do not know.
            if record(proxy, event).await {
                proxy.rules.enforce(pending);
                tracing::info!("limits.toml read again; the new limits are in force");
            }
        }
        Look::Rejected(event, error) => {
            tracing::error!("limits.toml is broken; the old limits stay in force\n{error}");
            record(proxy, event).await;
        }
    }
}

/// Whether it is on disk. Without that nothing is paid anyway: the writer has failed for good.
async fn record(proxy: &Proxy, event: Event) -> bool {
    match proxy.ledger.append(event).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "the change of limits could not be recorded, so it is not in force");
            false
        }
    }
}

/// Whoever signs on EVM networks.
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
        tracing::info!(token, %network, "BKey signs, for whole US cents alone");
    }
    Ok(wallet)
}

/// What the chain says against the books is told at once.
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
            "the CA ends soon; run `bursar ca rotate` and give agents the new ca.pem"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_accepted_connection_does_not_wait_to_send() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let (_agent, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let stream = prompt(accepted.unwrap().0).unwrap();
        assert!(stream.nodelay().unwrap());
    }
}
