//! What people and scripts are shown about limits and spending: plain structs, made in one place, so that text, JSON
//! and the sockets cannot show different numbers.

mod limits;
mod spend;

pub(crate) use limits::{Asked, BudgetView, Level, LimitsView, SectionView, Seen};
#[cfg(test)]
pub(crate) use spend::SpendRow;
pub(crate) use spend::{SpendAsked, SpendSums, SpendView};
