use alloy_primitives::{Address, U256};
use proptest::prelude::*;

use super::*;
use crate::testimony::{Proof, Silent, Taking, Testimony};
use bursar_core::assets::Network;

const PAYEE: Address = Address::repeat_byte(0x0b);
const TX: B256 = B256::repeat_byte(0xee);
const OTHER_TX: B256 = B256::repeat_byte(0xef);
const DEADLINE: u64 = 1_800_000_000;

fn facts(claim_state: ClaimState) -> Facts {
    Facts {
        network: Network::Eip155(84_532),
        token: Address::repeat_byte(0x70),
        from: Address::repeat_byte(0x0a),
        payee: PAYEE,
        amount: Atoms::new(10_000),
        nonce: B256::repeat_byte(0x11),
        proof: Proof::Authorization,
        armed_at: DEADLINE - 300,
        valid_before: DEADLINE,
        claim_state,
        claimed_tx: None,
    }
}

fn block(timestamp: u64) -> Block {
    Block {
        number: 77,
        hash: B256::repeat_byte(0x77),
        timestamp,
    }
}

/// Evidence as of a head `age` seconds past the deadline, asked for `lag` seconds later.
fn evidence(age: i64, lag: u64, said: &[Nonce]) -> Evidence {
    let timestamp = DEADLINE.checked_add_signed(age).unwrap();
    Evidence {
        now: timestamp + lag,
        configured: said.len(),
        head: Head::Agreed(block(timestamp)),
        testimonies: said
            .iter()
            .enumerate()
            .map(|(at, nonce)| Testimony {
                node: format!("https://node{at}.example"),
                nonce: nonce.clone(),
            })
            .collect(),
        silent: Vec::new(),
    }
}

fn cashed(tx: B256, moved: &[(Address, u64)]) -> Nonce {
    Nonce::Cashed {
        tx,
        block: 70,
        moved: moved
            .iter()
            .map(|(to, amount)| Moved {
                to: *to,
                amount: U256::from(*amount),
            })
            .collect(),
    }
}

fn paid() -> Nonce {
    cashed(TX, &[(PAYEE, 10_000)])
}

fn cancelled() -> Nonce {
    Nonce::Cancelled { tx: TX, block: 70 }
}

fn open(evidence: &Evidence) -> Verdict {
    verdict(&facts(ClaimState::Open), evidence)
}

fn claimed(evidence: &Evidence) -> Verdict {
    verdict(&facts(ClaimState::Claimed), evidence)
}

fn settled(receipt: Named) -> Verdict {
    Verdict::Settled {
        tx: TX,
        block: 70,
        amount: Atoms::new(10_000),
        receipt,
    }
}

#[test]
fn paid_is_settled_whatever_the_ledger_said() {
    for evidence in [
        evidence(-100, 10, &[paid()]),
        evidence(100, 10, &[paid(), paid()]),
        // Among other payments in one transaction.
        evidence(100, 10, &[cashed(TX, &[(PAYEE, 5), (PAYEE, 10_000)])]),
        // It was paid, however old the node's head is.
        evidence(100, 100_000, &[paid()]),
        // A node without logs does not contradict one with logs.
        evidence(100, 10, &[Nonce::Unexplained, paid()]),
        evidence(100, 10, &[paid(), Nonce::NotFinal, Nonce::Unexplained]),
    ] {
        assert_eq!(open(&evidence), settled(Named::Nothing), "{evidence:?}");
        assert_eq!(claimed(&evidence), settled(Named::Nothing), "{evidence:?}");
    }
}

#[test]
fn a_receipt_with_another_transaction_is_noted() {
    let mut facts = facts(ClaimState::Claimed);
    let evidence = evidence(100, 10, &[paid()]);
    facts.claimed_tx = Some(TX.to_string().to_uppercase().replace("0X", "0x"));
    assert_eq!(verdict(&facts, &evidence), settled(Named::ThisTransaction));
    for other in [
        OTHER_TX.to_string(),
        "0x".to_owned() + &TX.to_string(),
        "sandbox".to_owned(),
    ] {
        facts.claimed_tx = Some(other.clone());
        assert_eq!(verdict(&facts, &evidence), settled(Named::Otherwise(other)));
    }
}

#[test]
fn money_that_went_elsewhere_is_disputed() {
    for (moved, text) in [
        (&[(PAYEE, 9_999)][..], "moved 9999 atoms to 0x0"),
        (&[(PAYEE, 10_001)], "moved 10001 atoms to 0x0"),
        (&[(Address::ZERO, 10_000)], "moved 10000 atoms to 0x0"),
        (&[(PAYEE, 5_000), (PAYEE, 5_000)], "5000 atoms to 0x0"),
        (&[], "moved nothing out of the wallet, not the 10000 atoms"),
    ] {
        let evidence = evidence(100, 10, &[cashed(TX, moved)]);
        for verdict in [open(&evidence), claimed(&evidence)] {
            let Verdict::Disputed { why } = verdict else {
                panic!("{moved:?}: {verdict:?}")
            };
            assert!(matches!(why, Dispute::OtherTransfer { tx: TX, .. }), "{why:?}");
            assert!(why.to_string().contains(text), "{why}");
        }
    }
}

#[test]
fn unused_past_the_deadline_is_dead() {
    for said in [&[Nonce::Unused][..], &[Nonce::Unused, Nonce::Unused]] {
        let evidence = evidence(1, 3_599, said);
        let head = block(DEADLINE + 1);
        assert_eq!(open(&evidence), Verdict::Expired { head });
        let why = Dispute::NeverCashed;
        assert_eq!(claimed(&evidence), Verdict::Disputed { why });
    }
}

#[test]
fn a_cancelled_authorization_is_dead_before_its_deadline() {
    let evidence = evidence(-200, 10, &[cancelled(), cancelled()]);
    assert_eq!(open(&evidence), Verdict::Cancelled { tx: TX, block: 70 });
    let why = Dispute::Cancelled { tx: TX };
    assert_eq!(claimed(&evidence), Verdict::Disputed { why });
}

#[test]
fn before_the_deadline_there_is_only_waiting() {
    // The head lags by 900 s, so it will be past the deadline that much later.
    let early = evidence(-10, 900, &[Nonce::Unused]);
    let until = DEADLINE + 900 + 1;
    assert_eq!(open(&early), Verdict::Wait { until });
    assert_eq!(claimed(&early), Verdict::Wait { until });
    let early = evidence(-100, 10, &[Nonce::Unused, Nonce::Unused]);
    assert_eq!(open(&early), Verdict::Wait { until: DEADLINE + 11 });
    // A head at the deadline is not past it.
    let until = DEADLINE + 10 + 5;
    assert_eq!(open(&evidence(0, 10, &[Nonce::Unused])), Verdict::Wait { until });
    // Used, but not final yet.
    for said in [
        &[Nonce::NotFinal][..],
        &[Nonce::NotFinal, Nonce::Unused],
        &[Nonce::Unused, Nonce::NotFinal],
    ] {
        let evidence = evidence(100, 40, said);
        let until = evidence.now + 40;
        assert_eq!(open(&evidence), Verdict::Wait { until }, "{said:?}");
    }
    // It never waits less than the minimum.
    let evidence = evidence(100, 0, &[Nonce::NotFinal]);
    let until = evidence.now + 5;
    assert_eq!(open(&evidence), Verdict::Wait { until });
}

#[test]
fn nodes_that_disagree_decide_nothing() {
    for said in [
        &[Nonce::Unused, paid()][..],
        &[paid(), Nonce::Unused],
        &[Nonce::NotFinal, Nonce::Unused, paid()],
        &[Nonce::Unused, cancelled()],
        &[Nonce::Unused, Nonce::Unexplained],
        &[paid(), cancelled()],
        &[paid(), cashed(OTHER_TX, &[(PAYEE, 10_000)])],
        &[paid(), cashed(TX, &[(PAYEE, 9_999)])],
        &[
            cancelled(),
            Nonce::Cancelled {
                tx: OTHER_TX,
                block: 70,
            },
        ],
    ] {
        let why = Unproven::Contradiction;
        assert_eq!(open(&evidence(100, 10, said)), Verdict::Unclear { why }, "{said:?}");
    }
    for said in [
        &[Nonce::Unexplained][..],
        &[Nonce::Unexplained, cancelled()],
        &[cancelled(), Nonce::NotFinal],
        &[Nonce::Unexplained, Nonce::NotFinal],
    ] {
        let why = Unproven::Unexplained;
        assert_eq!(open(&evidence(100, 10, said)), Verdict::Unclear { why }, "{said:?}");
    }
}

#[test]
fn a_head_that_is_old_or_ahead_frees_nothing() {
    for said in [Nonce::Unused, cancelled()] {
        let old = evidence(100, 3_601, std::slice::from_ref(&said));
        let why = Unproven::OldHead { seconds: 3_601 };
        assert_eq!(open(&old), Verdict::Unclear { why: why.clone() });
        assert_eq!(claimed(&old), Verdict::Unclear { why });
        let mut ahead = evidence(100, 0, &[said]);
        ahead.now -= 121;
        let why = Unproven::FutureHead { seconds: 121 };
        assert_eq!(open(&ahead), Verdict::Unclear { why });
    }
    let early = evidence(-100, 3_601, &[Nonce::Unused]);
    let why = Unproven::OldHead { seconds: 3_601 };
    assert_eq!(open(&early), Verdict::Unclear { why });
}

#[test]
fn of_two_nodes_both_must_answer() {
    for said in [Nonce::Unused, cancelled()] {
        let mut alone = evidence(100, 10, &[said]);
        alone.configured = 2;
        alone.silent.push(Silent {
            node: "https://node1.example".into(),
            why: "did not answer within 10 s".into(),
        });
        let why = Unproven::TooFewAnswers {
            answers: 1,
            configured: 2,
        };
        assert_eq!(open(&alone), Verdict::Unclear { why });
    }
}

/// However many there are: an attacker who controls some of them, and silences the rest, frees nothing.
#[test]
fn all_configured_nodes_must_answer_before_money_is_freed() {
    for configured in 1..=5 {
        for answers in 1..=configured {
            for said in [Nonce::Unused, cancelled()] {
                let mut some = evidence(100, 10, &vec![said.clone(); answers]);
                some.configured = configured;
                let verdict = open(&some);
                match (answers == configured, said) {
                    (true, Nonce::Unused) => assert!(matches!(verdict, Verdict::Expired { .. }), "{verdict:?}"),
                    (true, _) => assert!(matches!(verdict, Verdict::Cancelled { .. }), "{verdict:?}"),
                    (false, _) => {
                        let why = Unproven::TooFewAnswers { answers, configured };
                        assert_eq!(verdict, Verdict::Unclear { why });
                    }
                }
            }
            // Paid is paid, whoever shows it.
            let mut some = evidence(100, 10, &vec![paid(); answers]);
            some.configured = configured;
            assert_eq!(open(&some), settled(Named::Nothing));
        }
    }
}

#[test]
fn without_a_common_head_nothing_is_decided() {
    let mut nothing = evidence(100, 10, &[]);
    nothing.configured = 1;
    let why = Unproven::NoAnswer;
    assert_eq!(open(&nothing), Verdict::Unclear { why: why.clone() });
    nothing.head = Head::Unknown;
    assert_eq!(open(&nothing), Verdict::Unclear { why });
    let mut forked = evidence(100, 10, &[Nonce::Unused, Nonce::Unused]);
    forked.head = Head::Forked(77);
    let why = Unproven::Forked { block: 77 };
    assert_eq!(open(&forked), Verdict::Unclear { why });
}

fn of(proof: Proof, claim_state: ClaimState) -> Facts {
    Facts {
        proof,
        ..facts(claim_state)
    }
}

/// The verdict, which must be the same for both claim states.
fn upto(evidence: &Evidence) -> Verdict {
    let open = verdict(&of(UPTO, ClaimState::Open), evidence);
    let claimed = verdict(&of(UPTO, ClaimState::Claimed), evidence);
    assert_eq!(open, claimed, "{evidence:?}");
    open
}

fn taken(tx: Option<B256>, block: u64, taken: u128, receipt: Named) -> Verdict {
    Verdict::Taken {
        tx,
        block,
        taken: Atoms::new(taken),
        receipt,
    }
}

fn shared() -> Nonce {
    Nonce::Shared { tx: TX, block: 70 }
}

#[test]
fn of_an_upto_counts_what_was_taken() {
    for amount in [0, 1, 9_999, 10_000] {
        let part = cashed(TX, &[(PAYEE, amount)]);
        let shown = taken(Some(TX), 70, amount.into(), Named::Nothing);
        assert_eq!(upto(&evidence(-100, 10, std::slice::from_ref(&part))), shown);
        assert_eq!(upto(&evidence(100, 10, &[part.clone(), part.clone()])), shown);
        let mut facts = of(UPTO, ClaimState::Claimed);
        for (claimed, named) in [
            (TX, Named::ThisTransaction),
            (OTHER_TX, Named::Otherwise(OTHER_TX.to_string())),
        ] {
            facts.claimed_tx = Some(claimed.to_string());
            let shown = taken(Some(TX), 70, amount.into(), named);
            assert_eq!(verdict(&facts, &evidence(100, 10, std::slice::from_ref(&part))), shown);
        }
    }
}

#[test]
fn more_than_the_most_of_an_upto_or_to_somebody_else_is_disputed() {
    for moved in [
        &[(PAYEE, 10_001)][..],
        &[(PAYEE, u64::MAX)],
        &[(Address::ZERO, 1)],
        &[(PAYEE, 1), (PAYEE, 2)],
        &[(PAYEE, 1), (Address::ZERO, 2)],
        &[],
    ] {
        let evidence = evidence(100, 10, &[cashed(TX, moved)]);
        let verdict = upto(&evidence);
        assert!(
            matches!(
                verdict,
                Verdict::Disputed {
                    why: Dispute::OtherTransfer { .. }
                }
            ),
            "{moved:?}: {verdict:?}"
        );
    }
    let mut evidence = evidence(100, 10, &[cashed(TX, &[(PAYEE, 0)])]);
    let Nonce::Cashed { moved, .. } = &mut evidence.testimonies[0].nonce else {
        panic!()
    };
    moved[0].amount = U256::MAX;
    assert!(matches!(upto(&evidence), Verdict::Disputed { .. }));
}

#[test]
fn by_permit2_exact_moves_exactly_the_amount() {
    let exact = |said: &[Nonce]| {
        verdict(
            &of(Proof::Permit2(Taking::Whole), ClaimState::Open),
            &evidence(100, 10, said),
        )
    };
    assert_eq!(exact(&[paid()]), settled(Named::Nothing));
    for moved in [
        &[(PAYEE, 9_999)][..],
        &[(PAYEE, 5), (PAYEE, 10_000)],
        &[(Address::ZERO, 10_000)],
    ] {
        let verdict = exact(&[cashed(TX, moved)]);
        assert!(matches!(verdict, Verdict::Disputed { .. }), "{moved:?}: {verdict:?}");
    }
    let claimed = |said| {
        verdict(
            &of(Proof::Permit2(Taking::Whole), ClaimState::Claimed),
            &evidence(100, 10, said),
        )
    };
    let why = Dispute::NeverCashed;
    assert_eq!(claimed(&[Nonce::Unused]), Verdict::Disputed { why });
    // Among other payments it is paid, and all of it was counted before.
    assert_eq!(exact(&[shared()]), settled(Named::Nothing));
}

#[test]
fn what_cannot_be_told_apart_counts_in_full() {
    for said in [&[shared()][..], &[shared(), shared()], &[Nonce::Unexplained, shared()]] {
        assert_eq!(upto(&evidence(100, 10, said)), settled(Named::Nothing), "{said:?}");
    }
    let part = cashed(TX, &[(PAYEE, 1)]);
    let why = Unproven::Contradiction;
    assert_eq!(upto(&evidence(100, 10, &[shared(), part])), Verdict::Unclear { why });
}

#[test]
fn a_receipt_over_an_upto_is_not_contradicted_by_a_dead_nonce() {
    for (said, tx, block) in [(Nonce::Unused, None, 77), (cancelled(), Some(TX), 70)] {
        let evidence = evidence(100, 10, &[said]);
        let mut facts = of(UPTO, ClaimState::Claimed);
        assert_eq!(verdict(&facts, &evidence), taken(tx, block, 0, Named::Nothing));
        facts.claimed_tx = Some(OTHER_TX.to_string());
        let named = Named::Otherwise(OTHER_TX.to_string());
        assert_eq!(verdict(&facts, &evidence), taken(tx, block, 0, named));
        // Without a receipt it is dead like any other payment.
        let open = verdict(&of(UPTO, ClaimState::Open), &evidence);
        assert!(
            matches!(open, Verdict::Expired { .. } | Verdict::Cancelled { .. }),
            "{open:?}"
        );
    }
    // A block of the deadline's own second can still include it.
    let early = evidence(0, 10, &[Nonce::Unused]);
    assert!(matches!(upto(&early), Verdict::Wait { .. }));
}

#[test]
fn to_give_a_part_back_needs_what_a_release_needs() {
    let part = cashed(TX, &[(PAYEE, 1)]);
    let whole = paid();
    let mut alone = evidence(100, 10, std::slice::from_ref(&part));
    alone.configured = 2;
    let why = Unproven::TooFewAnswers {
        answers: 1,
        configured: 2,
    };
    assert_eq!(upto(&alone), Verdict::Unclear { why });
    alone.testimonies[0].nonce = whole.clone();
    assert_eq!(upto(&alone), taken(Some(TX), 70, 10_000, Named::Nothing));
    for vague in [Nonce::Unexplained, Nonce::NotFinal] {
        let doubted = evidence(100, 10, &[part.clone(), vague.clone()]);
        let why = Unproven::PartDoubted;
        assert_eq!(upto(&doubted), Verdict::Unclear { why });
        let whole = evidence(100, 10, &[vague, whole.clone()]);
        assert_eq!(upto(&whole), taken(Some(TX), 70, 10_000, Named::Nothing));
    }
    let old = evidence(100, 3_601, &[part]);
    let why = Unproven::OldHead { seconds: 3_601 };
    assert_eq!(upto(&old), Verdict::Unclear { why });
}

#[test]
fn a_memo_proves_as_an_authorization_does_if_later() {
    let at = |age, claim_state, said: &[Nonce]| verdict(&of(Proof::Memo, claim_state), &evidence(age, 10, said));
    let memo = |claim_state, said: &[Nonce]| at(601, claim_state, said);
    assert_eq!(memo(ClaimState::Open, &[paid()]), settled(Named::Nothing));
    let verdict = memo(ClaimState::Open, &[cashed(TX, &[(PAYEE, 9_999)])]);
    assert!(matches!(verdict, Verdict::Disputed { .. }), "{verdict:?}");
    let head = block(DEADLINE + 601);
    assert_eq!(memo(ClaimState::Open, &[Nonce::Unused]), Verdict::Expired { head });
    let why = Dispute::NeverCashed;
    assert_eq!(memo(ClaimState::Claimed, &[Nonce::Unused]), Verdict::Disputed { why });
    // An empty result proves nothing right after the deadline.
    let until = DEADLINE + 611;
    for age in [1, 600] {
        let early = at(age, ClaimState::Open, &[Nonce::Unused]);
        assert_eq!(
            early,
            Verdict::Wait {
                until: until.max(DEADLINE + 15 + u64::try_from(age).unwrap())
            }
        );
    }
}

#[test]
fn a_fee_that_left_keeps_its_payment_counted() {
    let failed = || Nonce::Failed { tx: TX, block: 70 };
    for claim_state in [ClaimState::Open, ClaimState::Claimed] {
        let memo = |said: &[Nonce]| verdict(&of(Proof::Memo, claim_state), &evidence(601, 10, said));
        let why = Dispute::Failed { tx: TX };
        assert_eq!(memo(&[failed()]), Verdict::Disputed { why: why.clone() });
        // A node that cannot tell changes nothing, and one that shows no fee frees nothing.
        assert_eq!(memo(&[Nonce::Unexplained, failed()]), Verdict::Disputed { why });
        for other in [Nonce::Unused, paid()] {
            let why = Unproven::Contradiction;
            assert_eq!(memo(&[failed(), other]), Verdict::Unclear { why });
        }
    }
}

fn any_nonce() -> impl Strategy<Value = Nonce> {
    let moved = prop::collection::vec((any::<bool>(), 9_999u64..10_002), 0..3);
    prop_oneof![
        4 => Just(Nonce::Unused),
        1 => (any::<bool>(), moved).prop_map(|(tx, moved)| {
            let to = |payee: bool| if payee { PAYEE } else { Address::ZERO };
            let moved: Vec<_> = moved.into_iter().map(|(payee, amount)| (to(payee), amount)).collect();
            cashed(if tx { TX } else { OTHER_TX }, &moved)
        }),
        1 => Just(cancelled()),
        1 => Just(shared()),
        1 => Just(Nonce::Failed { tx: TX, block: 70 }),
        1 => Just(Nonce::NotFinal),
        1 => Just(Nonce::Unexplained),
    ]
}

fn any_proof() -> impl Strategy<Value = Proof> {
    prop::sample::select(&[
        Proof::Authorization,
        Proof::Permit2(Taking::Whole),
        Proof::Permit2(Taking::UpTo),
        Proof::Memo,
    ])
}

fn any_evidence() -> impl Strategy<Value = Evidence> {
    let said = prop::collection::vec(any_nonce(), 0..4);
    (-400i64..400, 0u64..5_000, -300i64..300, said, 0usize..5, 0u8..8).prop_map(
        |(age, lag, skew, said, configured, head)| {
            let mut evidence = evidence(age, lag, &said);
            evidence.now = evidence.now.saturating_add_signed(skew);
            evidence.configured = configured;
            match head {
                0 => evidence.head = Head::Unknown,
                1 => evidence.head = Head::Forked(77),
                _ => {}
            }
            evidence
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn nothing_is_freed_that_may_have_been_cashed(
        evidence in any_evidence(),
        is_claimed in any::<bool>(),
        proof in any_proof(),
    ) {
        let claim_state = if is_claimed { ClaimState::Claimed } else { ClaimState::Open };
        let verdict = verdict(&of(proof, claim_state), &evidence);
        let said: Vec<&Nonce> = evidence.testimonies.iter().map(|testimony| &testimony.nonce).collect();
        let enough = !said.is_empty() && said.len() >= evidence.configured.min(2);
        if let Verdict::Expired { head } = &verdict {
            prop_assert_eq!(claim_state, ClaimState::Open);
            prop_assert!(enough && said.iter().all(|nonce| **nonce == Nonce::Unused));
            prop_assert_eq!(evidence.head, Head::Agreed(*head));
            prop_assert!(head.timestamp > DEADLINE);
            prop_assert!(evidence.now.saturating_sub(head.timestamp) <= 3_600);
            prop_assert!(head.timestamp.saturating_sub(evidence.now) <= 120);
        }
        if let Verdict::Cancelled { .. } = &verdict {
            prop_assert_eq!(claim_state, ClaimState::Open);
            prop_assert!(enough && said.iter().all(|nonce| **nonce == cancelled()));
        }
        if let Verdict::Settled { tx, .. } = &verdict {
            let shows = |nonce: &&Nonce| {
                matches!(nonce, Nonce::Cashed { tx: of, moved, .. } if of == tx
                    && moved.contains(&Moved { to: PAYEE, amount: U256::from(10_000) }))
                    || **nonce == shared()
            };
            prop_assert!(said.iter().any(shows) && !said.contains(&&Nonce::Unused));
        }
        if let Verdict::Taken { tx, taken, .. } = &verdict {
            prop_assert_eq!(proof, UPTO);
            prop_assert!(*taken <= facts(claim_state).amount);
            // Never less than any node shows.
            for nonce in &said {
                if let Nonce::Cashed { moved, .. } = nonce {
                    prop_assert!(moved.iter().all(|moved| moved.amount <= U256::from(taken.get())));
                }
            }
            if *taken < facts(claim_state).amount {
                prop_assert!(enough && said.iter().all(|nonce| *nonce == said[0] && **nonce != shared()));
            }
            if tx.is_none() {
                let past = matches!(evidence.head, Head::Agreed(head) if head.timestamp > DEADLINE);
                prop_assert!(past && is_claimed && said.iter().all(|nonce| **nonce == Nonce::Unused));
            }
        }
        if let Verdict::Wait { until } = &verdict {
            prop_assert!(*until > evidence.now);
        }
    }

    #[test]
    fn the_order_of_the_nodes_plays_no_part(mut evidence in any_evidence(), turn in 0usize..4, proof in any_proof()) {
        let open = |evidence: &Evidence| verdict(&of(proof, ClaimState::Open), evidence);
        let before = open(&evidence);
        let turn = turn.min(evidence.testimonies.len());
        evidence.testimonies.rotate_left(turn);
        prop_assert_eq!(&before, &open(&evidence));
        evidence.testimonies.reverse();
        prop_assert_eq!(before, open(&evidence));
    }
}
