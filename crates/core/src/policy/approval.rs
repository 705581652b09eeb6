//! Whether a person can be asked to approve payments, and the keys of limits.toml that require it.

use crate::money::MicroUsd;

/// Whether a person can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approvals {
    /// No backend: payments that need approval are refused.
    None,
    /// On this machine's terminal, which cannot tell people apart.
    Terminal,
    /// Through a service that knows people by name.
    Service,
}

/// The approval keys of one level.
#[derive(Debug)]
pub struct Asking {
    pub above: Option<MicroUsd>,
    /// Above this price, `needed` people must approve.
    pub second_above: Option<MicroUsd>,
    pub needed: u8,
    /// Who is asked, by the names of the approval backend. Empty: the backend decides.
    pub approvers: Vec<String>,
    pub owner: Option<String>,
}

/// How many people must approve above the second threshold, unless the file says otherwise.
pub const NEEDED: u8 = 2;

impl Default for Asking {
    fn default() -> Self {
        Self {
            above: None,
            second_above: None,
            needed: NEEDED,
            approvers: Vec::new(),
            owner: None,
        }
    }
}

impl Approvals {
    pub(super) fn can_be_asked(self) -> bool {
        self != Self::None
    }
}
