//! How a row keeps a payment (R281): what was reserved is in the entry of the reservation, which is in the outbox with the
//! row, so the row has only what changes.
//!
//! Rows of version 5 of the tables name no entry and keep the whole payment. They stay so until they are gone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::entry::{Arm, Body, Entry, Reserved, WindowCharge};
use crate::model::{Source, State};
use crate::payment::Payment;
use crate::text::{Decimal, Moment};

/// The entry that reserved a payment: a node, and a number in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub node: u32,
    pub seq: u64,
}

/// A payment without what was reserved.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<String>,
    /// Absent: as it was reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    arm: Option<Arm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    armed_at: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<Source>,
    created_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    disputed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<Vec<WindowCharge>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken: Option<Decimal<u128>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx: Option<String>,
    updated_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    yielded: Option<u32>,
}

/// The text of a row.
pub(super) fn text(payment: &Payment, origin: Option<Origin>) -> Result<String, String> {
    let text = match origin {
        None => serde_json::to_string(payment),
        Some(_) => serde_json::to_string(&Kept::of(payment)),
    };
    text.map_err(|error| error.to_string())
}

/// The payment of a row with this text. `reserved`: what the entry that the row names has reserved, if it names one.
pub(super) fn read(text: &str, reserved: Option<Arc<Reserved>>) -> Result<Payment, String> {
    let read = match reserved {
        None => serde_json::from_str(text),
        Some(reserved) => serde_json::from_str(text).map(|kept: Kept| kept.with(reserved)),
    };
    read.map_err(|error| damaged(&error))
}

/// What an entry in the outbox has reserved.
pub(super) fn reserved(entry: &[u8]) -> Result<Arc<Reserved>, String> {
    match Entry::parse(entry).map_err(|error| damaged(&error))?.0.body {
        Body::Reserved(reserved) => Ok(reserved),
        _ => Err(damaged(&"its row names an entry that reserved nothing")),
    }
}

fn damaged(why: &dyn std::fmt::Display) -> String {
    format!("a payment in the database cannot be read: {why}")
}

impl Kept {
    fn of(payment: &Payment) -> Self {
        let Payment {
            approval,
            arm,
            armed_at,
            by,
            created_at,
            disputed,
            moved,
            reason,
            reserved,
            state,
            taken,
            tx,
            updated_at,
            yielded,
        } = payment;
        Self {
            approval: approval.clone(),
            arm: arm.clone().filter(|_| *arm != reserved.arm),
            armed_at: *armed_at,
            by: *by,
            created_at: *created_at,
            disputed: disputed.clone(),
            moved: moved.clone(),
            reason: reason.clone(),
            state: *state,
            taken: *taken,
            tx: tx.clone(),
            updated_at: *updated_at,
            yielded: *yielded,
        }
    }

    fn with(self, reserved: Arc<Reserved>) -> Payment {
        Payment {
            approval: self.approval,
            arm: self.arm.or_else(|| reserved.arm.clone()),
            armed_at: self.armed_at,
            by: self.by,
            created_at: self.created_at,
            disputed: self.disputed,
            moved: self.moved,
            reason: self.reason,
            reserved,
            state: self.state,
            taken: self.taken,
            tx: self.tx,
            updated_at: self.updated_at,
            yielded: self.yielded,
        }
    }
}
