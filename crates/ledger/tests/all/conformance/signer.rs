//! Credentials from an external signer: what it chooses is on record before anything is sent, and until then there is
//! no placeholder for it.

use alloy_primitives::B256;
use bursar_core::account::Account;
use bursar_ledger::{
    ArmedNonce, Issued, LedgerError, Outcome, Reservation, Reserve, ReserveError, Signer, Source, State,
};

use crate::conformance::engine::Engine;

const CENT: u128 = 10_000;

fn by_bkey(engine: &Engine) -> Reserve {
    let mut purchase = engine.world.purchase(100 * CENT);
    purchase.arm.nonce = ArmedNonce::Signers;
    purchase.arm.signer = Some(Signer::Bkey);
    purchase
}

fn chosen(reservation: &Reservation, nonce: u8) -> Issued {
    Issued {
        nonce: B256::repeat_byte(nonce),
        valid_after: 7,
        valid_before: reservation.arm().valid_before - 100,
        authorization: Some("auth_1".to_owned()),
    }
}

async fn armed(engine: &Engine) -> Reservation {
    engine.ledger.reserve(by_bkey(engine)).await.unwrap()
}

pub(super) async fn what_a_signer_chooses_is_recorded_once(engine: Engine) {
    let reservation = armed(&engine).await;
    let (rid, issued) = (reservation.rid(), chosen(&reservation, 7));
    assert_eq!(reservation.arm().nonce, ArmedNonce::Signers);
    let payment = engine.ledger.get(rid).await.unwrap().unwrap();
    assert!(payment.is_with_signer() && payment.nonce_key().is_none());

    let reservation = engine.ledger.issued(reservation, issued.clone()).await.unwrap();
    let arm = reservation.arm();
    assert_eq!(
        (arm.nonce, arm.valid_after, arm.valid_before),
        (ArmedNonce::Known(issued.nonce), 7, issued.valid_before)
    );
    let payment = engine.ledger.get(rid).await.unwrap().unwrap();
    assert_eq!((payment.state, payment.is_with_signer()), (State::Armed, false));
    let recorded = payment.arm.unwrap();
    assert_eq!(
        (recorded.nonce, recorded.valid_before.0),
        (Some(issued.nonce), issued.valid_before)
    );
    assert_eq!(engine.day().await, (0, CENT));

    let again = engine.ledger.issued(reservation, chosen_again(&issued)).await;
    assert_eq!(again.unwrap_err(), LedgerError::NotWithSigner(rid));
    let (why, tx) = (bursar_ledger::Reason::Restart, None);
    engine.ledger.finish(rid, Outcome::Unknown { why, tx }).await.unwrap();
    let (by, why) = (Source::Chain, bursar_ledger::Reason::NeverCashed);
    engine.ledger.finish(rid, Outcome::Expired { by, why }).await.unwrap();
    assert_eq!(engine.day().await, (0, 0));
}

fn chosen_again(issued: &Issued) -> Issued {
    Issued {
        nonce: B256::repeat_byte(8),
        ..issued.clone()
    }
}

/// Chosen by us, by a signer, or used by a payment that has ended.
pub(super) async fn a_nonce_that_was_used_is_not_taken_from_a_signer(engine: Engine) {
    let mut ours = engine.world.purchase(100 * CENT);
    ours.arm.nonce = B256::repeat_byte(7).into();
    let ended = engine.ledger.reserve(ours).await.unwrap().rid();
    let (by, tx) = (Source::Merchant, None);
    engine.ledger.finish(ended, Outcome::Settled { by, tx }).await.unwrap();
    let first = armed(&engine).await;
    let issued = chosen(&first, 8);
    engine.ledger.issued(first, issued).await.unwrap();
    for nonce in [7, 8] {
        let reservation = armed(&engine).await;
        let (rid, issued) = (reservation.rid(), chosen(&reservation, nonce));
        let refused = engine.ledger.issued(reservation, issued).await;
        assert_eq!(refused.unwrap_err(), LedgerError::NonceTaken(rid));
        assert_eq!(engine.ledger.get(rid).await.unwrap().unwrap().state, State::Armed);
    }
    let mut ours = engine.world.purchase(100 * CENT);
    ours.arm.nonce = B256::repeat_byte(8).into();
    assert_eq!(engine.ledger.reserve(ours).await.unwrap_err(), ReserveError::NonceTaken);
    assert_eq!(engine.day().await, (CENT, 3 * CENT));
}

pub(super) async fn only_what_is_armed_for_a_signer_takes_what_it_chose(engine: Engine) {
    let ours = engine.ledger.reserve(engine.world.purchase(100 * CENT)).await.unwrap();
    let (rid, issued) = (ours.rid(), chosen(&ours, 7));
    assert_eq!(
        engine.ledger.issued(ours, issued).await.unwrap_err(),
        LedgerError::NotWithSigner(rid)
    );
    let late = armed(&engine).await;
    let (rid, issued) = (late.rid(), chosen(&late, 7));
    let (why, tx) = (bursar_ledger::Reason::SignerUnclear, None);
    engine.ledger.finish(rid, Outcome::Unknown { why, tx }).await.unwrap();
    assert_eq!(
        engine.ledger.issued(late, issued).await.unwrap_err(),
        LedgerError::NotWithSigner(rid)
    );
    let never = armed(&engine).await;
    let (rid, mut issued) = (never.rid(), chosen(&never, 7));
    issued.valid_after = issued.valid_before;
    assert_eq!(
        engine.ledger.issued(never, issued).await.unwrap_err(),
        LedgerError::NeverValid(rid)
    );
    assert_eq!(engine.day().await, (0, 3 * CENT));
}

/// Neither a signer's payment with a made-up nonce, nor one of ours without a nonce.
pub(super) async fn an_arming_must_say_who_chooses_the_nonce(engine: Engine) {
    let mut made_up = by_bkey(&engine);
    made_up.arm.nonce = B256::repeat_byte(7).into();
    let mut nobodys = engine.world.purchase(100 * CENT);
    nobodys.arm.nonce = ArmedNonce::Signers;
    // A token's nonce only prevents its challenge from being answered twice, and is ours.
    let mut token = by_bkey(&engine);
    token.arm.from = Account::parse("pm_card_visa").unwrap();
    for reserve in [made_up, nobodys, token.clone()] {
        let refused = engine.ledger.reserve(reserve).await;
        assert!(matches!(refused, Err(ReserveError::Failed(_))), "{refused:?}");
    }
    token.arm.nonce = B256::repeat_byte(7).into();
    engine.ledger.reserve(token).await.unwrap();
    assert_eq!(engine.day().await, (0, CENT));
}

pub(super) async fn what_a_signer_has_is_found_again(engine: Engine) {
    let (waiting, made) = (armed(&engine).await, armed(&engine).await);
    let (waits, rid, issued) = (waiting.rid(), made.rid(), chosen(&made, 7));
    engine.ledger.issued(made, issued.clone()).await.unwrap();
    let (engine, reopened) = engine.reopened().await;
    let state = if reopened { State::Unknown } else { State::Armed };
    let payment = engine.ledger.get(rid).await.unwrap().unwrap();
    assert_eq!((payment.state, payment.arm.unwrap().nonce), (state, Some(issued.nonce)));
    let payment = engine.ledger.get(waits).await.unwrap().unwrap();
    assert_eq!((payment.state, payment.is_with_signer()), (state, true));
    assert_eq!(engine.day().await, (0, 2 * CENT));
    // Its nonce is still taken.
    let another = armed(&engine).await;
    let (rid, issued) = (another.rid(), chosen(&another, 7));
    assert_eq!(
        engine.ledger.issued(another, issued).await.unwrap_err(),
        LedgerError::NonceTaken(rid)
    );
}
