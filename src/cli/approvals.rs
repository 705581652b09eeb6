//! `bursar pending`, `approve`, `deny`: the operator's own terminal as the place where payments are approved.

use clap::Args;
use jiff::Timestamp;

use super::output::say;
use super::payments::{parse_id, print_json};
use super::{Exit, Failure};
use crate::admin::{self, AdminError};
use bursar_approvals::operator;
use bursar_approvals::questions;
use bursar_home::Home;

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
        approver,
        backend,
        rule,
    } = question;
    let left = match ends.duration_since(Timestamp::now()).as_secs() {
        ..=0 => "over".to_owned(),
        seconds => format!("{seconds} s left"),
    };
    let next = match (state.as_str(), backend.as_str()) {
        ("approved", operator::NAME) => {
            format!("  approved; it is paid when the agent asks again\n  bursar deny {id} --why TEXT takes it back")
        }
        ("approved", _) => "  approved; it is paid when the agent asks again".to_owned(),
        (_, operator::NAME) => format!("  bursar approve {id} --code {code}\n  bursar deny {id} --why TEXT"),
        _ => format!("  {approver} is asked over {backend}"),
    };
    format!(
        "{id}  {left}\n  {sentence}\n  agent {agent}: {method} {resource}\n  paid to {payee} on {network}\n  asked because of \
         {rule}\n{next}"
    )
}
