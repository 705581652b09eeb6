//! Whom a threshold's question is put to: people whom limits.toml names, or bursar.toml, and who do not own the agent
//! (threat 4.4).

use super::Questions;
use crate::operator;
use bursar_core::approval::ApprovalIntent;
use bursar_core::policy::{Approvals, Threshold};

/// Who is asked, and how many of them must approve.
#[derive(Clone, Debug)]
pub struct Approvers {
    /// In alphabetical order.
    pub(super) names: Vec<String>,
    pub(super) needed: usize,
    pub(super) owners: Vec<String>,
}

/// Why nobody can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoApprover {
    /// Neither limits.toml nor bursar.toml names anyone.
    Named,
    /// Whoever is named owns the agent.
    Else,
    /// So many must approve, and fewer are named.
    Enough { needed: usize, named: usize },
}

impl Questions {
    /// Who it is that can be asked.
    pub fn approvals(&self) -> Approvals {
        match self.0.operator {
            Some(_) => Approvals::Terminal,
            None => Approvals::Service,
        }
    }

    /// Who is asked about what passes this threshold.
    pub fn approvers(&self, threshold: &Threshold) -> Result<Approvers, NoApprover> {
        let (needed, owners) = (usize::from(threshold.needed), threshold.owners.clone());
        let mut names = match (&self.0.operator, &threshold.named, &self.0.approver) {
            // Which account answers is looked at when it does.
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
    /// As an intent has it: the name of the one who is asked, or how many of whom.
    pub fn name(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        ApprovalIntent::approver_of(&names, self.needed)
    }
}
