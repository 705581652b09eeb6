//! What an earlier run has left: outstanding payments, and tokens at Stripe.

use std::collections::HashMap;

use super::StartError;
use bursar_core::clock::SharedClock;
use bursar_home::Home;
use bursar_ledger::{Ledger, State};
use bursar_rails::outstanding::{Known, Left, Outstanding};
use bursar_rails::pay::Tokens;

/// Forgets tokens of payments that need no more queries. Tokens that may still have a hold are watched.
pub(super) async fn forget_tokens(tokens: &Tokens, ledger: &dyn Ledger, now: jiff::Timestamp) {
    let Ok(unconfirmed) = ledger.unconfirmed().await else {
        return;
    };
    for rid in tokens.all() {
        match ledger.get(rid).await {
            Ok(Some(payment)) if !payment.state.is_final() || unconfirmed.contains(&rid) => {}
            Ok(Some(payment)) if Tokens::may_have_a_hold(&payment, now) => tokens.watch(rid),
            Ok(_) => tokens.forget(rid),
            Err(error) => tracing::warn!(payment = %rid, %error, "cannot look the payment up; its token is kept"),
        }
    }
}

/// Loads the outstanding payments of an earlier run that the ledger still has as open or paid.
pub(super) async fn outstanding(
    home: &Home,
    ledger: &dyn Ledger,
    clock: &SharedClock,
) -> Result<Outstanding, StartError> {
    let left = Left::read(&home.credentials())?;
    let mut known = HashMap::new();
    for rid in left.payments() {
        let (state, request) = match ledger.get(rid).await {
            Ok(Some(payment)) => (payment.state, Some(payment.reserved.fp.0)),
            Ok(None) => continue,
            // Whatever its outcome, presenting it again cannot pay twice.
            Err(error) => {
                tracing::warn!(payment = %rid, %error, "cannot look its state up; treating its outcome as unknown");
                (State::Unknown, None)
            }
        };
        let paid = match state {
            State::Armed | State::Unknown => false,
            State::Settled => true,
            State::Held | State::Released | State::Expired => continue,
        };
        known.insert(rid, Known { paid, request });
    }
    let outstanding = left.compared(clock.clone(), |rid| known.get(&rid).copied());
    let open = ledger.open_items().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the outstanding payments could not be read yet");
        Vec::new()
    });
    let unknown = open.iter().filter(|payment| payment.state == State::Unknown);
    outstanding.remember(unknown.map(|payment| {
        let valid_before = payment.arm.as_ref().map_or(0, |arm| arm.valid_before.0);
        (payment.rid(), payment.reserved.fp.0, valid_before)
    }));
    Ok(outstanding)
}
