//! `bursar pending`, `approve`, `deny`: the operator's own terminal as the place where payments are approved.

use clap::Args;
use jiff::Timestamp;

use super::output::say;
use super::payments::{parse_id, print_json};
use super::{Exit, Failure};
use crate::admin::{self, AdminError};
use crate::approval::{EvidenceKind, proof};
use crate::home::Home;
use crate::questions::{self, Kept, KeptAsk};

#[derive(Args)]
pub struct Pending {
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Approve {
    /// As `bursar pending` shows it
    id: String,
    /// The eight characters behind the # of its question
    #[arg(long, value_name = "CODE")]
    code: String,
}

#[derive(Args)]
pub struct Deny {
    /// As `bursar pending` shows it
    id: String,
    /// What the agent and the books are told
    #[arg(long, value_name = "TEXT")]
    why: String,
}

impl Pending {
    pub async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let pending = admin::pending(home).await.map_err(not_asked)?;
        let Some(pending) = pending else {
            eprintln!(
                "bursar: nobody is asked about payments: write backend = \"operator\" under [approval] in bursar.toml."
            );
            return Ok(Exit::Usage);
        };
        if self.json {
            pending.iter().try_for_each(print_json)?;
            return Ok(Exit::Done);
        }
        if pending.is_empty() {
            eprintln!("Nothing waits.");
        }
        pending.iter().try_for_each(|question| say!("{}", sheet(question)))?;
        Ok(Exit::Done)
    }
}

impl Approve {
    pub async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let id = parse_id(&self.id)?;
        let (question, code) = (self.id, self.code);
        admin::ask(home, &admin::Approve { id: question, code })
            .await
            .map_err(not_asked)?;
        say!(
            "{id} is approved. It is paid when the agent's request, or the same one again, takes it within 15 minutes."
        )?;
        Ok(Exit::Done)
    }
}

impl Deny {
    pub async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let id = parse_id(&self.id)?;
        if self.why.trim().is_empty() {
            return Err(Failure::usage(
                "--why is empty; say why, the agent and the books are told",
            ));
        }
        let (question, why) = (self.id, self.why);
        admin::ask(home, &admin::Deny { id: question, why })
            .await
            .map_err(not_asked)?;
        say!("{id} is denied. Nothing is paid.")?;
        Ok(Exit::Done)
    }
}

fn not_asked(error: AdminError) -> Failure {
    match error {
        AdminError::NoServer => Failure::unavailable(
            "no server runs on this directory, and only a running one can be told: start `bursar serve`; what waited is \
             taken up again"
                .to_owned(),
        ),
        error => Failure::negative(error.to_string()),
    }
}

fn sheet(question: &questions::Pending) -> String {
    let questions::Pending {
        id,
        agent,
        state,
        sentence,
        code,
        resource,
        method,
        payee,
        network,
        ends,
        ..
    } = question;
    let left = match ends.duration_since(Timestamp::now()).as_secs() {
        ..=0 => "over".to_owned(),
        seconds => format!("{seconds} s left"),
    };
    let next = match state.as_str() {
        "approved" => {
            format!("  approved; it is paid when the agent asks again\n  bursar deny {id} --why TEXT takes it back")
        }
        _ => format!("  bursar approve {id} --code {code}\n  bursar deny {id} --why TEXT"),
    };
    format!("{id}  {left}\n  {sentence}\n  agent {agent}: {method} {resource}\n  paid to {payee} on {network}\n{next}")
}

/// What was asked and answered, below a payment's own lines.
pub(super) fn record(kept: &Kept) -> String {
    let mut lines = vec![
        ("asked_at", kept.asked_at.to_string()),
        ("asked_through", kept.backend.clone()),
        ("intent_sha256", kept.intent_sha256.clone()),
    ];
    if kept.asks.len() > 1 {
        lines.push(("needed", format!("{} of {} people", kept.needed, kept.asks.len())));
    }
    for ask in &kept.asks {
        lines.push(("asked", ask.sentence.clone()));
        match &ask.evidence {
            None => lines.push(("approved_by", "nobody".to_owned())),
            Some(evidence) => lines.extend([
                ("approved_by", evidence.approver.clone()),
                ("approved_at", evidence.decided_at.to_string()),
                ("evidence", evidence.kind.to_string()),
            ]),
        }
        if let Some(checked) = checked(ask) {
            lines.push((
                "verified",
                match checked {
                    Checked::Yes { key } => format!("yes (key {key})"),
                    Checked::No { why } => format!("no: {why}"),
                },
            ));
        }
    }
    lines
        .into_iter()
        .map(|(name, text)| format!("{name:<15} {text}\n"))
        .collect()
}

/// What a saved token is worth by itself, offline: checked with the key that was kept beside it, as its issuer may have others by
/// now (approvals digest §5, §10).
#[derive(serde::Serialize)]
#[serde(tag = "verified", rename_all = "snake_case")]
pub(super) enum Checked {
    Yes {
        /// RFC 7638 thumbprint, to be compared with what the issuer published then.
        key: String,
    },
    No {
        why: String,
    },
}

/// `None`: what was answered is no token, so only this proxy's word says so.
pub(super) fn checked(ask: &KeptAsk) -> Option<Checked> {
    let evidence = ask.evidence.as_ref()?;
    if evidence.kind != EvidenceKind::SignedToken {
        return None;
    }
    Some(match proof::reverify(evidence) {
        // A good token of somebody who was not asked is none.
        Ok(_) if ask.approver != evidence.approver => Checked::No {
            why: "it is not from the approver who was asked".to_owned(),
        },
        Ok(verified) => Checked::Yes {
            key: verified.key().thumbprint(),
        },
        Err(why) => Checked::No { why: why.to_string() },
    })
}
