use alloy_primitives::{Address, Bytes, address};
use serde_json::json;

use super::calls::{EIP2612Permit, Exact, ExactWitness, PermitTransferFrom, TokenPermissions, Upto, UptoWitness};
use super::*;
use crate::evidence::Finality;
use crate::testimony::{ClaimState, Evidence, Proof};
use bursar_core::assets::Network;
use bursar_core::money::Atoms;
use bursar_rails::rpc::fake::chain::{Chain, Transferred, cashing};
use bursar_rails::rpc::fake::{Fake, tls};

const NETWORK: Network = Network::Eip155(84_532);
const TOKEN: Address = Address::repeat_byte(0x70);
const WALLET: Address = Address::repeat_byte(0x0a);
const PAYEE: Address = Address::repeat_byte(0x0b);
const FACILITATOR: Address = Address::repeat_byte(0x0c);
const NONCE: B256 = B256::repeat_byte(0x11);
const OTHER_NONCE: B256 = B256::repeat_byte(0x12);
const TX: B256 = B256::repeat_byte(0xee);
const OTHER_TX: B256 = B256::repeat_byte(0xef);
const WRAPPER: Address = address!("0xca11bde05977b3631167028862be2a173976ca11");
const GENESIS: u64 = 1_800_000_000;
const MOST: u64 = 50_000;

/// Signed at block 900, valid up to and including block 1050; final up to block 1100, which is 20 s old.
fn chain() -> Chain {
    Chain::new(GENESIS, 1_100, 1_105)
}

fn facts(taking: Taking) -> Facts {
    Facts {
        network: NETWORK,
        token: TOKEN,
        from: WALLET,
        payee: PAYEE,
        amount: Atoms::new(MOST.into()),
        nonce: NONCE,
        proof: Proof::Permit2(taking),
        armed_at: GENESIS + 1_800,
        valid_before: GENESIS + 2_100,
        claim_state: ClaimState::Open,
        claimed_tx: None,
    }
}

fn upto_facts() -> Facts {
    facts(Taking::UpTo)
}

fn permit(nonce: B256) -> PermitTransferFrom {
    PermitTransferFrom {
        permitted: TokenPermissions {
            token: TOKEN,
            amount: U256::from(MOST),
        },
        nonce: U256::from_be_bytes(nonce.0),
        deadline: U256::from(GENESIS + 2_100),
    }
}

fn brought() -> EIP2612Permit {
    EIP2612Permit {
        value: U256::from(MOST),
        deadline: U256::from(GENESIS + 2_100),
        r: B256::repeat_byte(1),
        s: B256::repeat_byte(2),
        v: 27,
    }
}

/// What the facilitator sends to take an amount under a nonce.
fn upto_call(nonce: B256, amount: u64) -> Bytes {
    let call = Upto::settleCall {
        permit: permit(nonce),
        amount: U256::from(amount),
        owner: WALLET,
        witness: UptoWitness {
            to: PAYEE,
            facilitator: FACILITATOR,
            validAfter: U256::ZERO,
        },
        signature: Bytes::from([7; 65]),
    };
    call.abi_encode().into()
}

fn exact_witness() -> ExactWitness {
    ExactWitness {
        to: PAYEE,
        validAfter: U256::ZERO,
    }
}

fn sent(block: u64, to: Address, input: Bytes) -> Sent {
    Sent {
        block,
        to: Some(to),
        input,
    }
}

fn to_payee(value: u64) -> Transferred {
    Transferred {
        from: WALLET,
        to: PAYEE,
        value,
    }
}

/// The facilitator takes with a direct call of the proxy.
fn taken(chain: &mut Chain, block: u64, tx: B256, nonce: B256, value: u64) {
    let sent = sent(block, Taking::UpTo.proxy(), upto_call(nonce, value));
    chain.take(tx, TOKEN, &[(nonce, to_payee(value))], sent);
}

/// Takes from within another contract, whose input its sender chooses freely.
fn wrapped(chain: &mut Chain, block: u64, tx: B256, taken: &[(B256, u64)], input: Vec<u8>) {
    let taken: Vec<_> = taken.iter().map(|(nonce, value)| (*nonce, to_payee(*value))).collect();
    chain.take(tx, TOKEN, &taken, sent(block, WRAPPER, input.into()));
}

fn thrown_away(chain: &mut Chain, block: u64, tx: B256, mask: U256) {
    let event = Event::NoncesInvalidated {
        owner: WALLET,
        word: U256::from_be_bytes(NONCE.0) >> 8,
        mask,
    };
    chain.mine(block, tx, bursar_core::challenge::permit2::PERMIT2, &[event]);
}

fn bit() -> U256 {
    U256::from(1) << usize::from(NONCE.0[31])
}

fn cashed(tx: B256, block: u64, value: u64) -> Nonce {
    let moved = vec![Moved {
        to: PAYEE,
        amount: U256::from(value),
    }];
    Nonce::Cashed { tx, block, moved }
}

async fn gathered(facts: &Facts, fake: &Fake) -> Evidence {
    let (tls, nodes) = (tls(), [fake.node()]);
    let finality = Finality::of(&tls, NETWORK, &nodes, GENESIS + 2_220).await;
    finality.evidence(&tls, facts).await
}

/// What a node of that chain testifies.
async fn said(facts: &Facts, chain: Chain) -> Nonce {
    let evidence = gathered(facts, &Fake::of(chain).await).await;
    assert_eq!(evidence.silent, []);
    evidence.testimonies[0].nonce.clone()
}

#[tokio::test]
async fn a_bit_that_is_not_set_is_a_nonce_that_is_not_used() {
    let mut chain = chain();
    assert_eq!(said(&upto_facts(), chain.clone()).await, Nonce::Unused);
    // Other bits of the word do not matter.
    thrown_away(&mut chain, 950, TX, !bit());
    assert_eq!(said(&upto_facts(), chain).await, Nonce::Unused);
}

#[tokio::test]
async fn a_call_of_the_proxy_shows_how_much_was_taken() {
    for value in [0, 1, 20_000, MOST] {
        let mut chain = chain();
        // There are others in the same block and at other times, some by the token's own functions.
        taken(&mut chain, 910, OTHER_TX, OTHER_NONCE, 7);
        taken(&mut chain, 910, TX, NONCE, value);
        let tx = B256::repeat_byte(1);
        chain.mine(910, tx, TOKEN, &cashing(WALLET, B256::ZERO, PAYEE, 9));
        chain.sent.push((tx, sent(910, TOKEN, Bytes::new())));
        taken(&mut chain, 911, B256::repeat_byte(2), B256::repeat_byte(0x13), 3);
        let fake = Fake::of(chain).await;
        let evidence = gathered(&upto_facts(), &fake).await;
        assert_eq!(evidence.testimonies[0].nonce, cashed(TX, 910, value), "{evidence:?}");
        assert!(fake.asked() < 50, "{}", fake.asked());
    }
}

#[tokio::test]
async fn the_deadlines_own_second_is_searched() {
    for block in [600, 1_050] {
        let mut chain = chain();
        taken(&mut chain, block, TX, NONCE, 5);
        assert_eq!(said(&upto_facts(), chain.clone()).await, cashed(TX, block, 5));
        // Also without the states of that time.
        chain.state_since = 1_060;
        assert_eq!(said(&upto_facts(), chain).await, cashed(TX, block, 5));
    }
}

#[tokio::test]
async fn from_the_first_block_of_a_chain_on() {
    let mut chain = chain();
    taken(&mut chain, 1, TX, NONCE, 5);
    let mut facts = upto_facts();
    facts.armed_at = GENESIS;
    assert_eq!(said(&facts, chain).await, cashed(TX, 1, 5));
}

#[tokio::test]
async fn all_four_calls_of_the_proxies_are_known_and_no_other() {
    let upto = Upto::settleWithPermitCall {
        brought: brought(),
        permit: permit(NONCE),
        amount: U256::from(9),
        owner: WALLET,
        witness: UptoWitness {
            to: PAYEE,
            facilitator: FACILITATOR,
            validAfter: U256::ZERO,
        },
        signature: Bytes::from([7; 65]),
    };
    let exact = Exact::settleCall {
        permit: permit(NONCE),
        owner: WALLET,
        witness: exact_witness(),
        signature: Bytes::from([7; 65]),
    };
    let exact_brought = Exact::settleWithPermitCall {
        brought: brought(),
        permit: permit(NONCE),
        owner: WALLET,
        witness: exact_witness(),
        signature: Bytes::from([7; 65]),
    };
    let (whole, part) = (Taking::Whole, Taking::UpTo);
    let of = |taking: Taking, to: Address, input: Bytes| settles(&facts(taking), taking, &sent(1, to, input));
    for (taking, input) in [
        (part, upto_call(NONCE, 9)),
        (part, upto.abi_encode().into()),
        (whole, exact.abi_encode().into()),
        (whole, exact_brought.abi_encode().into()),
    ] {
        assert!(of(taking, taking.proxy(), input.clone()));
        assert!(!of(taking, WRAPPER, input.clone()), "another contract");
        let other = if taking == whole { part } else { whole };
        assert!(!of(other, other.proxy(), input.clone()), "the other proxy");
        assert!(!of(taking, taking.proxy(), input.slice(..input.len() - 64)), "cut off");
    }
    assert!(!of(part, part.proxy(), upto_call(OTHER_NONCE, 9)));
    let mut elsewhere = upto_facts();
    for change in [
        |facts: &mut Facts| facts.from = PAYEE,
        |facts: &mut Facts| (facts.from, facts.token) = (WALLET, PAYEE),
    ] {
        change(&mut elsewhere);
        assert!(!settles(&elsewhere, part, &sent(1, part.proxy(), upto_call(NONCE, 9))));
    }
    // As in the tables of the reference client, which its facilitator uses for its calls.
    assert_eq!(Upto::settleCall::SIGNATURE, SETTLE_UPTO);
}

const SETTLE_UPTO: &str = "settle(((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)";

#[tokio::test]
async fn a_nonce_that_was_thrown_away_moved_nothing() {
    let mut chain = chain();
    thrown_away(&mut chain, 950, TX, bit() | (bit() << 1));
    let cancelled = Nonce::Cancelled { tx: TX, block: 950 };
    assert_eq!(said(&upto_facts(), chain.clone()).await, cancelled);
    // Invalidated again later, which Permit2 also logs.
    thrown_away(&mut chain, 960, OTHER_TX, bit());
    assert_eq!(said(&upto_facts(), chain.clone()).await, cancelled);
    // If money for the payee moved as well, it is undecidable: the nonce may have been used first and invalidated
    // afterwards.
    let paying = |chain: &mut Chain, input: Vec<u8>| wrapped(chain, 950, OTHER_TX, &[(OTHER_NONCE, 4)], input);
    let mut hidden = chain.clone();
    paying(&mut hidden, vec![1, 2, 3]);
    assert_eq!(said(&upto_facts(), hidden).await, Nonce::Unexplained);
    paying(&mut chain, NONCE.to_vec());
    let (tx, block) = (OTHER_TX, 950);
    assert_eq!(said(&upto_facts(), chain).await, Nonce::Shared { tx, block });
}

#[tokio::test]
async fn another_contracts_call_is_believed_where_nothing_else_moved() {
    // The nonce may be anywhere in the input, which is not aligned to words.
    let bearing = [vec![1, 2, 3], upto_call(NONCE, 20_000).to_vec()].concat();
    let mut chain = chain();
    wrapped(&mut chain, 910, TX, &[(NONCE, 20_000)], bearing.clone());
    taken(&mut chain, 911, OTHER_TX, OTHER_NONCE, 7);
    assert_eq!(said(&upto_facts(), chain.clone()).await, cashed(TX, 910, 20_000));
    // Next to another payment, the whole amount counts.
    taken(&mut chain, 910, B256::repeat_byte(1), B256::repeat_byte(0x13), 7);
    let (tx, block) = (TX, 910);
    assert_eq!(said(&upto_facts(), chain.clone()).await, Nonce::Shared { tx, block });
    // If the nonce is not in the input, nothing is explained.
    let mut hidden = self::chain();
    wrapped(&mut hidden, 910, TX, &[(NONCE, 20_000)], vec![9; 100]);
    assert_eq!(said(&upto_facts(), hidden).await, Nonce::Unexplained);
}

#[tokio::test]
async fn two_payments_in_one_transaction_prove_only_their_sum() {
    let both = [upto_call(NONCE, 1), upto_call(OTHER_NONCE, 40_000)].concat();
    let mut chain = chain();
    wrapped(&mut chain, 910, TX, &[(NONCE, 1), (OTHER_NONCE, 40_000)], both);
    for nonce in [NONCE, OTHER_NONCE] {
        let facts = Facts { nonce, ..upto_facts() };
        let (tx, block) = (TX, 910);
        assert_eq!(said(&facts, chain.clone()).await, Nonce::Shared { tx, block });
    }
}

/// A facilitator that is a contract takes the maximum under one nonce, which it hides, and lets another transaction
/// with a small payment carry that nonce: that transaction must not be taken for ours.
#[tokio::test]
async fn a_nonce_that_stands_beside_another_payment_gives_nothing_back() {
    let mut chain = chain();
    wrapped(&mut chain, 910, TX, &[(NONCE, MOST)], vec![9; 100]);
    wrapped(&mut chain, 910, OTHER_TX, &[(OTHER_NONCE, 1)], NONCE.to_vec());
    let (tx, block) = (OTHER_TX, 910);
    assert_eq!(said(&upto_facts(), chain).await, Nonce::Shared { tx, block });
    // In another block it is not considered.
    let mut chain = self::chain();
    wrapped(&mut chain, 910, TX, &[(NONCE, MOST)], vec![9; 100]);
    wrapped(&mut chain, 911, OTHER_TX, &[(OTHER_NONCE, 1)], NONCE.to_vec());
    assert_eq!(said(&upto_facts(), chain).await, Nonce::Unexplained);
}

#[tokio::test]
async fn the_receipts_transaction_is_looked_at_first() {
    let mut chain = chain();
    taken(&mut chain, 910, TX, NONCE, 20_000);
    let mut facts = upto_facts();
    let asked = |fake: &Fake| fake.asked();
    let fake = Fake::of(chain.clone()).await;
    gathered(&facts, &fake).await;
    let searching = asked(&fake);
    facts.claimed_tx = Some(TX.to_string());
    let fake = Fake::of(chain.clone()).await;
    assert_eq!(
        gathered(&facts, &fake).await.testimonies[0].nonce,
        cashed(TX, 910, 20_000)
    );
    assert!(asked(&fake) < searching);
    // Above the head it is not final, and then an unset bit frees nothing.
    let mut late = self::chain();
    taken(&mut late, 1_103, TX, NONCE, 20_000);
    assert_eq!(said(&facts, late).await, Nonce::NotFinal);
    // Somebody else's transaction, or not a transaction.
    for other in [OTHER_TX.to_string(), "0x".into()] {
        facts.claimed_tx = Some(other);
        assert_eq!(said(&facts, chain.clone()).await, cashed(TX, 910, 20_000));
    }
    // A node that shows the payment and says that the nonce is unused contradicts itself.
    chain.permits.clear();
    facts.claimed_tx = Some(TX.to_string());
    assert_eq!(said(&facts, chain).await, Nonce::Unexplained);
}

#[tokio::test]
async fn a_node_without_old_states_shows_the_proxys_calls_alone() {
    let mut direct = chain();
    taken(&mut direct, 910, TX, NONCE, 20_000);
    let mut bare = chain();
    wrapped(&mut bare, 910, TX, &[(NONCE, 20_000)], NONCE.to_vec());
    for (state_since, otherwise) in [(1_000, Nonce::Unexplained), (1_102, Nonce::NotFinal)] {
        (direct.state_since, bare.state_since) = (state_since, state_since);
        assert_eq!(said(&upto_facts(), direct.clone()).await, cashed(TX, 910, 20_000));
        assert_eq!(said(&upto_facts(), bare.clone()).await, otherwise);
    }
    let mut unused = chain();
    unused.state_since = 1_102;
    assert_eq!(said(&upto_facts(), unused).await, Nonce::Unused);
    // Without any state there is no testimony.
    let mut gone = chain();
    gone.state_since = u64::MAX;
    let evidence = gathered(&upto_facts(), &Fake::of(gone).await).await;
    assert_eq!(evidence.testimonies, []);
}

#[tokio::test]
async fn a_node_that_lost_a_transaction_makes_no_other_look_alone() {
    let mut chain = chain();
    wrapped(&mut chain, 910, TX, &[(NONCE, 20_000)], NONCE.to_vec());
    wrapped(&mut chain, 910, OTHER_TX, &[(OTHER_NONCE, 1)], vec![1]);
    let fake = Fake::replying(move |method, params| {
        let lost = method == "eth_getTransactionByHash" && params[0] == json!(OTHER_TX);
        match lost {
            true => json!({ "result": null }),
            false => chain.answer(method, params),
        }
    })
    .await;
    let evidence = gathered(&upto_facts(), &fake).await;
    assert_eq!(evidence.testimonies, [], "{evidence:?}");
}
