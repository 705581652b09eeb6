//! Who is asked about a payment over a threshold: people named in limits.toml or bursar.toml who do not own the agent
//! (threat 4.4).

use super::Questions;
use crate::operator;
use bursar_core::approval::ApprovalIntent;
use bursar_core::policy::{Approvals, Threshold};

/// The approvers of one question, and how many of them must approve.
#[derive(Clone, Debug)]
pub struct Approvers {
    /// Sorted.
    pub(super) names: Vec<String>,
    pub(super) needed: usize,
    pub(super) owners: Vec<String>,
}

/// Why nobody can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoApprover {
    /// Neither limits.toml nor bursar.toml names anyone.
    Named,
    /// Everyone named owns the agent.
    Else,
    /// More people must approve than are named.
    Enough { needed: usize, named: usize },
}

impl Questions {
    /// Which kind of approver is configured.
    pub fn approvals(&self) -> Approvals {
        match self.0.operator {
            Some(_) => Approvals::Terminal,
            None => Approvals::Service,
        }
    }

    /// The approvers for a payment over this threshold.
    pub fn approvers(&self, threshold: &Threshold) -> Result<Approvers, NoApprover> {
        let (needed, owners) = (usize::from(threshold.needed), threshold.owners.clone());
        let mut names = match (&self.0.operator, &threshold.named, &self.0.approver) {
            // Whether the answering account is an owner is checked when it answers.
            (Some(_), ..) => vec![operator::NAME.to_owned()],
            (None, Some(named), _) => named.clone(),
            (None, None, Some(approver)) if owners.contains(approver) => return Err(NoApprover::Else),
            (None, None, Some(approver)) => vec![approver.clone()],
            (None, None, None) => return Err(NoApprover::Named),
        };
        names.sort_unstable();
        match names.len() {
            0 => Err(NoApprover::Else),
            named if named < needed => Err(NoApprover::Enough { needed, named }),
            _ => Ok(Approvers { names, needed, owners }),
        }
    }
}

impl Approvers {
    /// The `approver` member of an intent: the approver's name, or how many of which approvers.
    pub fn name(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        ApprovalIntent::approver_of(&names, self.needed)
    }
}
