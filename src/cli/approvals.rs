//! `bursar pending`, `approve` and `deny`: the operator approves payments on a terminal.

use clap::Args;
use jiff::Timestamp;

use super::arguments::parse_id;
use super::output::{note, print_json, say};
use super::reach::{Place, Reach, failed};
use super::{Exit, Failure};
use crate::admin::{self, AdminError};
use bursar_approvals::operator;
use bursar_approvals::questions;
use bursar_core::plain::plain;
use bursar_home::Home;

#[derive(Args)]
pub(super) struct Pending {
    #[command(flatten)]
    reach: Reach,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Approve {
    /// Payment id, as shown by `bursar pending`
    id: String,
    /// The eight characters after the # in its question
    #[arg(long, value_name = "CODE")]
    code: String,
}

#[derive(Args)]
pub(super) struct Deny {
    /// Payment id, as shown by `bursar pending`
    id: String,
    /// Reason; the agent sees it, and the ledger records it
    #[arg(long, value_name = "TEXT")]
    why: String,
}

impl Pending {
    pub(super) async fn run(self, home: Result<Home, Failure>) -> Result<Exit, Failure> {
        let place = self.reach.place(home)?;
        let pending = admin::pending(&place.door()).await.map_err(|error| match place {
            Place::Home(_) => not_asked(error),
            Place::Socket(_) => place.failed(error),
        })?;
        let Some(pending) = pending else {
            note!(
                "bursar: no approver is configured; to approve payments here, set backend = \"operator\" under \
                 [approval] in bursar.toml."
            );
            return Ok(Exit::Usage);
        };
        if self.json {
            pending.iter().try_for_each(print_json)?;
            return Ok(Exit::Done);
        }
        if pending.is_empty() {
            note!("No payments are waiting for approval.");
        }
        pending.iter().try_for_each(|question| say!("{}", sheet(question)))?;
        Ok(Exit::Done)
    }
}

impl Approve {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let id = parse_id(&self.id)?;
        let (question, code) = (self.id, self.code);
        admin::ask(home, &admin::Approve { id: question, code })
            .await
            .map_err(not_asked)?;
        say!(
            "Approved {id}. It is paid when the agent's waiting request, or a repeat of it, uses the approval within \
             15 minutes."
        )?;
        Ok(Exit::Done)
    }
}

impl Deny {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let id = parse_id(&self.id)?;
        if self.why.trim().is_empty() {
            return Err(Failure::usage(
                "--why is empty; give a reason: the agent sees it, and the ledger records it",
            ));
        }
        let (question, why) = (self.id, self.why);
        admin::ask(home, &admin::Deny { id: question, why })
            .await
            .map_err(not_asked)?;
        say!("Denied {id}. It will not be paid.")?;
        Ok(Exit::Done)
    }
}

fn not_asked(error: AdminError) -> Failure {
    match error {
        AdminError::NoServer => Failure::unavailable(
            "no server is running on this data directory, and approvals need one: start `bursar serve`; it resumes the \
             payments that were waiting"
                .to_owned(),
        ),
        error => failed(error),
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
        approver,
        backend,
        rules,
    } = question;
    // The agent chose the resource; the other members are ours or the operator's, and as plain here as anywhere.
    let [agent, sentence, resource, method, payee] = [agent, sentence, resource, method, payee].map(|text| plain(text));
    let [network, approver, backend_name] = [network, approver, backend].map(|text| plain(text));
    let left = match ends.duration_since(Timestamp::now()).as_secs() {
        ..=0 => "time is up".to_owned(),
        seconds => format!("{seconds} s left"),
    };
    let next = match (state.as_str(), backend.as_str()) {
        ("approved", operator::NAME) if !code.is_empty() => {
            format!("  approved; paid when the agent repeats its request\n  to withdraw: bursar deny {id} --why TEXT")
        }
        ("approved", _) => "  approved; paid when the agent repeats its request".to_owned(),
        // People who may only look get no code.
        (_, operator::NAME) if code.is_empty() => "  waiting for the operator".to_owned(),
        (_, operator::NAME) => format!("  bursar approve {id} --code {code}\n  bursar deny {id} --why TEXT"),
        _ => format!("  waiting for {approver}, asked through {backend_name}"),
    };
    format!(
        "{id}  {left}\n  {sentence}\n  agent {agent}: {method} {resource}\n  payee {payee} on {network}\n  approval \
         required by {}\n{next}",
        plain(&rules.join(" and "))
    )
}
