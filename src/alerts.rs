//! Notifies people of what cannot wait until somebody looks: a line in the log, an entry in the ledger, and the
//! operator's own command or webhook (`[alerts]` in bursar.toml).
//!
//! Raising an alert never blocks, because the ledger's writer raises alerts too. `history` sends each alert only once,
//! so that there is no flood. A failed delivery never holds up a payment.

mod alert;
mod command;
mod history;
mod question;
pub mod watch;
mod webhook;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use alert::{Alert, Message};
pub use command::Program;
pub use question::QuestionNotifier;
pub use webhook::Webhook;

use crate::config::alerts as settings;
use crate::config::{SecretError, secret};
use bursar_core::clock::SharedClock;
use bursar_ledger::{Alarm, Alarms, Event, Ledger, PaymentId};
use bursar_net::tls::upstream::UpstreamTls;
use history::AlertHistory;

/// Alerts waiting to be recorded, and messages waiting for one channel. Any more are only logged.
const QUEUE: usize = 256;
/// Commands or POST requests running at once, per channel.
const AT_ONCE: usize = 4;
/// Time limit for one run of the command or one POST request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses before the second, third and fourth attempt.
const RETRIES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];
/// Grace period for deliveries still running when the server stops; after it, commands are killed.
const AT_THE_END: Duration = Duration::from_secs(3);

/// An alert channel from bursar.toml.
#[derive(Clone)]
pub enum Channel {
    Command(Arc<Program>),
    Webhook(Arc<Webhook>),
}

/// The message was not delivered through this channel; the log says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelFailed;

/// The channels configured in bursar.toml, with the webhook's token read.
pub fn channels(
    settings: &settings::Alerts,
    dir: PathBuf,
    tls: &Arc<UpstreamTls>,
) -> Result<Vec<Channel>, SecretError> {
    let mut channels = Vec::new();
    if let Some(webhook) = &settings.webhook {
        let token = webhook
            .token
            .as_ref()
            .map(|source| secret::read(source, &dir))
            .transpose()?;
        let webhook = Webhook::new(webhook.url.clone(), token, tls.clone());
        channels.push(Channel::Webhook(Arc::new(webhook)));
    }
    if let Some(command) = &settings.command {
        channels.push(Channel::Command(Arc::new(Program::new(command.clone(), dir))));
    }
    Ok(channels)
}

impl Channel {
    /// Sends once, within a time limit. The error is for people.
    pub async fn send(&self, message: &impl Serialize) -> Result<(), String> {
        let sending = async {
            match self {
                Self::Command(program) => program.run(message).await,
                Self::Webhook(webhook) => webhook.post(message).await,
            }
        };
        timeout(PATIENCE, sending)
            .await
            .unwrap_or_else(|_| Err(format!("it timed out after {} s", PATIENCE.as_secs())))
    }

    /// Sends, and retries after each pause; fails after the last retry, or when `ending` is cancelled. `kind` and `id`
    /// are for the log, which never contains the message itself.
    pub async fn send_with_retries(
        &self,
        kind: &str,
        id: Option<PaymentId>,
        message: &impl Serialize,
        ending: &CancellationToken,
    ) -> Result<(), ChannelFailed> {
        let id = id.map(tracing::field::display);
        let mut pauses = RETRIES.iter();
        loop {
            let Err(why) = self.send(message).await else {
                return Ok(());
            };
            let Some(pause) = pauses.next() else {
                tracing::error!(kind, id, %why, "cannot deliver to {}; giving up", self.shown());
                return Err(ChannelFailed);
            };
            tracing::warn!(kind, id, %why, again_in_s = pause.as_secs(), "cannot deliver to {}", self.shown());
            tokio::select! {
                () = sleep(*pause) => {}
                () = ending.cancelled() => return Err(ChannelFailed),
            }
        }
    }

    /// For logs and output: leaves out anything that may be a key.
    pub fn shown(&self) -> String {
        match self {
            Self::Command(program) => format!("the command {}", program.shown()),
            Self::Webhook(webhook) => format!("the webhook {}", webhook.shown()),
        }
    }
}

/// Raises alerts. Clones share one queue.
#[derive(Clone)]
pub struct Alerts(Arc<Inside>);

struct Inside {
    history: Mutex<AlertHistory>,
    queue: mpsc::Sender<(Timestamp, Alert)>,
    clock: SharedClock,
}

/// The receiving end of the queue, for [`RaisedAlerts::send`].
pub struct RaisedAlerts(mpsc::Receiver<(Timestamp, Alert)>);

/// Handle of the running delivery tasks.
pub struct AlertDelivery {
    ending: CancellationToken,
    /// Cancelled after `ending`: drops whatever still runs; a dropped command is killed.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Alerts {
    pub fn new(clock: SharedClock) -> (Self, RaisedAlerts) {
        let (queue, raised) = mpsc::channel(QUEUE);
        let inside = Inside {
            history: Mutex::default(),
            queue,
            clock,
        };
        (Self(Arc::new(inside)), RaisedAlerts(raised))
    }

    /// Queues the alert unless it was sent before. Never blocks.
    pub fn raise(&self, alert: Alert) {
        let now = self.0.clock.now();
        let is_new = self.history().is_new(&alert, now);
        if is_new && let Err(error) = self.0.queue.try_send((now, alert)) {
            let (mpsc::error::TrySendError::Full((_, alert)) | mpsc::error::TrySendError::Closed((_, alert))) = error;
            let message = alert.message(now);
            tracing::warn!(
                kind = message.kind,
                "{} (logged only; the alert queue takes no more)",
                message.text
            );
        }
    }

    fn was_notified_unknown(&self, rid: PaymentId) -> bool {
        self.history().knows_unknown(rid)
    }

    /// Marks it as covered by an alert about many payments.
    fn count_as_notified(&self, rid: PaymentId) {
        self.history().note_unknown(rid, self.0.clock.now());
    }

    /// The wallet has enough on `network` again; the next time it runs low, an alert is sent again.
    pub fn wallet_recovered(&self, network: bursar_core::assets::Network) {
        self.history().forget_low_wallet(network);
    }

    /// An adapter for the ledger's [`Alarms`].
    pub fn alarms(&self) -> Alarms {
        let alerts = self.clone();
        Arc::new(move |alarm: Alarm| alerts.raise(Alert::Ledger(alarm)))
    }

    // A panic while the lock is held leaves the map usable: entries are only inserted and removed.
    fn history(&self) -> std::sync::MutexGuard<'_, AlertHistory> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaisedAlerts {
    /// Starts delivery, which runs until [`AlertDelivery::end`].
    pub fn send(mut self, ledger: Arc<dyn Ledger>, channels: &[Channel]) -> AlertDelivery {
        let (ending, cut, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let queues: Vec<_> = channels
            .iter()
            .map(|channel| {
                let (queue, messages) = mpsc::channel(QUEUE);
                tasks.spawn(notify_through(channel.clone(), messages, ending.clone(), cut.clone()));
                queue
            })
            .collect();
        let end = ending.clone();
        tasks.spawn(async move {
            loop {
                let raised = tokio::select! {
                    raised = self.0.recv() => raised,
                    () = end.cancelled() => {
                        // Alerts already queued are still sent; `raise` only logs later ones.
                        self.0.close();
                        self.0.recv().await
                    }
                };
                let Some((at, alert)) = raised else { return };
                record_and_hand_on(&*ledger, alert, at, &queues).await;
            }
        });
        AlertDelivery { ending, cut, tasks }
    }
}

async fn record_and_hand_on(ledger: &dyn Ledger, alert: Alert, at: Timestamp, queues: &[mpsc::Sender<Message>]) {
    let message = alert.message(at);
    tracing::warn!(kind = message.kind, "{}", message.text);
    let event = Event::Alert {
        kind: message.kind,
        detail: message.text.clone(),
        rid: message.payment,
    };
    // The alert may be that nothing can be recorded, so people are notified all the same.
    if let Err(error) = ledger.append(event).await {
        tracing::warn!(%error, kind = message.kind, "an alert could not be recorded in the journal");
    }
    for queue in queues {
        if queue.try_send(message.clone()).is_err() {
            tracing::warn!(
                kind = message.kind,
                "too many alerts are queued; this one is only in the log and the ledger"
            );
        }
    }
}

async fn notify_through(
    channel: Channel,
    mut messages: mpsc::Receiver<Message>,
    ending: CancellationToken,
    cut: CancellationToken,
) {
    let (room, running) = (Arc::new(Semaphore::new(AT_ONCE)), TaskTracker::new());
    while let Some(message) = messages.recv().await {
        let permit = tokio::select! {
            permit = room.clone().acquire_owned() => permit,
            () = cut.cancelled() => break,
        };
        let (channel, ending, cut) = (channel.clone(), ending.clone(), cut.clone());
        running.spawn(async move {
            let _permit = permit;
            tokio::select! {
                _ = channel.send_with_retries(message.kind, message.payment, &message, &ending) => {}
                () = cut.cancelled() => {}
            }
        });
    }
    running.close();
    running.wait().await;
}

impl AlertDelivery {
    /// Sends what was raised so far, within a time limit. The ledger must still be open.
    pub async fn end(self) {
        self.ending.cancel();
        self.tasks.close();
        if timeout(AT_THE_END, self.tasks.wait()).await.is_err() {
            tracing::warn!("an alert was still being delivered at shutdown; delivery was cut off");
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}
