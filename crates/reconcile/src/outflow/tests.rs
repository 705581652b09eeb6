use serde_json::json;

use super::*;
use bursar_rails::rpc::Sent;
use bursar_rails::rpc::fake::chain::{Chain, cashing, memoed};
use bursar_rails::rpc::fake::{Fake, tls};

const NETWORK: Network = Network::Eip155(42_220);
const WALLET: Address = Address::repeat_byte(0x0a);
const PAYEE: Address = Address::repeat_byte(0x0b);
const THIEF: Address = Address::repeat_byte(0x0c);
const OURS: B256 = B256::repeat_byte(0x11);
const FOREIGN: B256 = B256::repeat_byte(0x12);
const TX: B256 = B256::repeat_byte(0xee);

fn tokens() -> Vec<Address> {
    assets::tokens_of(NETWORK).map(|asset| asset.address).collect()
}

fn taken(value: u64) -> Event {
    Event::Transfer {
        from: WALLET,
        to: THIEF,
        value: U256::from(value),
    }
}

/// The ledger has one payment: 7 atoms of the first token to the payee.
fn known(nonce: &B256, outflow: &Outflow) -> bool {
    *nonce == OURS && outflow.asset.address == tokens()[0] && (outflow.to, outflow.amount) == (PAYEE, U256::from(7))
}

/// Recipients and amounts of the transfers that nothing explains.
fn left(chain: &Chain) -> Vec<(Address, u64)> {
    unexplained(NETWORK, &chain.logs, known)
        .into_iter()
        .map(|outflow| (outflow.to, outflow.amount.to()))
        .collect()
}

fn chain() -> Chain {
    let mut chain = Chain::new(1_000, 100, 100);
    chain.id = NETWORK.chain_id().unwrap();
    chain
}

#[test]
fn our_own_payments_are_no_outflow() {
    let mut chain = chain();
    chain.mine(5, TX, tokens()[0], &cashing(WALLET, OURS, PAYEE, 7));
    assert_eq!(left(&chain), []);
    // Logs that are given twice change nothing.
    chain.logs.extend(chain.logs.clone());
    assert_eq!(left(&chain), []);
}

#[test]
fn a_transfer_beside_our_payment_is_not_excused_by_it() {
    let ours = cashing(WALLET, OURS, PAYEE, 7);
    let foreign = cashing(WALLET, FOREIGN, THIEF, 900);
    for events in [
        [&ours[..], &foreign[..]].concat(),
        [&foreign[..], &ours[..]].concat(),
        [&ours[..], &[taken(900)]].concat(),
        [&[taken(900)], &ours[..]].concat(),
    ] {
        let mut chain = chain();
        chain.mine(5, TX, tokens()[0], &events);
        assert_eq!(left(&chain), [(THIEF, 900)], "{events:?}");
    }
}

#[test]
fn a_payment_excuses_one_transfer_even_of_its_twin() {
    let ours = cashing(WALLET, OURS, PAYEE, 7);
    let mut chain = chain();
    chain.mine(5, TX, tokens()[0], &[&ours[..], &ours[1..]].concat());
    assert_eq!(left(&chain), [(PAYEE, 7)]);
}

#[test]
fn a_nonce_of_ours_excuses_only_its_own_payment() {
    for (token, to, value) in [(1, PAYEE, 7), (0, THIEF, 7), (0, PAYEE, 8)] {
        let mut chain = chain();
        chain.mine(5, TX, tokens()[token], &cashing(WALLET, OURS, to, value));
        assert_eq!(left(&chain), [(to, value)]);
    }
    // The event is in one token, the transfer in another.
    let mut chain = chain();
    let [used, moved] = cashing(WALLET, OURS, PAYEE, 7);
    chain.mine(5, TX, tokens()[1], &[used]);
    chain.mine(5, TX, tokens()[0], &[moved]);
    assert_eq!(left(&chain), [(PAYEE, 7)]);
}

#[test]
fn transfers_of_nothing_are_noise() {
    let mut chain = chain();
    chain.mine(5, TX, tokens()[0], &[taken(0)]);
    assert_eq!(left(&chain), []);
}

#[tokio::test]
async fn one_node_cannot_hide_what_another_shows() {
    let mut chain = chain();
    chain.mine(5, TX, tokens()[0], &cashing(WALLET, OURS, PAYEE, 7));
    chain.mine(20, B256::repeat_byte(2), tokens()[1], &[taken(3)]);
    chain.mine(10, B256::repeat_byte(1), tokens()[0], &[taken(900)]);
    let honest = Fake::of(chain).await;
    let hiding = Fake::replying(|_, _| json!({ "result": [] })).await;
    let broken = Fake::replying(|_, _| json!({ "error": { "code": -32601, "message": "no logs here" } })).await;
    let nodes = [hiding.node(), honest.node(), broken.node(), honest.node()];
    let seen = outflows(&tls(), NETWORK, &nodes, WALLET, 0..=100, known, None).await;
    assert_eq!(seen.searched_by, 3);
    assert_eq!(seen.silent.len(), 1);
    assert_eq!(seen.silent[0].node, broken.node().shown());
    let shown: Vec<_> = seen
        .found
        .iter()
        .map(|outflow| (outflow.block, outflow.asset.address, outflow.amount.to::<u64>()))
        .collect();
    assert_eq!(shown, [(10, tokens()[0], 900), (20, tokens()[1], 3)]);
    assert_eq!((seen.found[0].tx, seen.found[0].log_index), (B256::repeat_byte(1), 3));

    let seen = outflows(&tls(), NETWORK, &nodes[1..2], WALLET, 0..=9, known, None).await;
    assert_eq!(seen.found, []);
}

#[test]
fn a_memo_of_ours_explains_its_transfer_and_a_fee_is_no_outflow() {
    let network = Network::Eip155(42_431);
    let token = assets::tokens_of(network).next().unwrap().address;
    let known =
        |memo: &B256, outflow: &Outflow| *memo == OURS && (outflow.to, outflow.amount) == (PAYEE, U256::from(7));
    let fee = |value: u64| Event::Transfer {
        from: WALLET,
        to: TEMPO_FEES,
        value: U256::from(value),
    };
    let left = |events: &[Event]| {
        let mut chain = chain();
        chain.mine(5, TX, token, events);
        let found = unexplained(network, &chain.logs, known);
        found
            .iter()
            .map(|outflow| (outflow.to, outflow.amount.to::<u64>()))
            .collect::<Vec<_>>()
    };
    let ours = memoed(WALLET, OURS, PAYEE, 7);
    assert_eq!(left(&[&ours[..], &[fee(744)]].concat()), []);
    // A failed transaction leaves only the fee.
    assert_eq!(left(&[fee(358)]), []);
    assert_eq!(left(&[fee(10_501)]), [(TEMPO_FEES, 10_501)]);
    for (memo, to, value) in [(FOREIGN, PAYEE, 7), (OURS, THIEF, 7), (OURS, PAYEE, 8)] {
        assert_eq!(
            left(&[&memoed(WALLET, memo, to, value)[..], &[fee(744)]].concat()),
            [(to, value)]
        );
    }
    // The memo explains one transfer, not the ones next to it.
    let beside = [&[taken(900)][..], &ours[..], &[taken(901)]].concat();
    assert_eq!(left(&beside), [(THIEF, 900), (THIEF, 901)]);
    // On other networks no fee is paid in tokens.
    let mut elsewhere = chain();
    elsewhere.mine(5, TX, tokens()[0], &[fee(1)]);
    assert_eq!(self::left(&elsewhere), [(TEMPO_FEES, 1)]);
}

#[tokio::test]
async fn a_nonce_in_the_input_explains_one_transfer_through_permit2() {
    let to_payee = |value: u64| Event::Transfer {
        from: WALLET,
        to: PAYEE,
        value: U256::from(value),
    };
    let mut chain = chain();
    chain.mine(5, TX, tokens()[0], &[to_payee(5), taken(3), to_payee(6)]);
    chain.sent.push((
        TX,
        Sent {
            block: 5,
            to: Some(THIEF),
            input: [&[1, 2][..], &OURS[..]].concat().into(),
        },
    ));
    let node = Fake::of(chain).await;
    let borne = |input: &[u8], outflow: &Outflow| {
        let is_there = input.windows(32).any(|word| word == OURS.as_slice());
        let allowed = outflow.to == PAYEE && outflow.amount <= U256::from(7);
        if is_there && allowed { vec![OURS] } else { Vec::new() }
    };
    let seen = outflows(&tls(), NETWORK, &[node.node()], WALLET, 0..=100, known, Some(&borne)).await;
    assert_eq!((seen.searched_by, &seen.silent[..]), (1, &[][..]));
    let left: Vec<_> = seen
        .found
        .iter()
        .map(|outflow| (outflow.to, outflow.amount.to::<u64>()))
        .collect();
    assert_eq!(left, [(THIEF, 3), (PAYEE, 6)]);
}

/// Tempo's own transactions have `calls` and no `input`; that must not hide a theft.
#[tokio::test]
async fn a_theft_on_tempo_is_found_beside_permit2_payments_elsewhere() {
    const TEMPO: Network = Network::Eip155(42_431);
    let token = assets::tokens_of(TEMPO).next().unwrap().address;
    let mut chain = Chain::new(1_000, 100, 100);
    chain.id = 42_431;
    chain.mine(5, TX, token, &[taken(900)]);
    let tempo = Fake::replying(move |method, params| match method {
        "eth_getTransactionByHash" => json!({ "result": {
            "type": "0x76", "hash": TX, "blockNumber": "0x5", "nonce": "0x0", "nonceKey": "0x0",
            "calls": [{ "to": token, "value": "0x0", "input": "0x" }],
        } }),
        _ => chain.answer(method, params),
    })
    .await;
    let nodes = [tempo.node()];
    let borne: Borne<'_> = &|_, _| Vec::new();
    let seen = outflows(&tls(), TEMPO, &nodes, WALLET, 0..=100, |_, _| false, Some(borne)).await;
    assert_eq!((seen.found.len(), seen.searched_by), (1, 1), "{seen:?}");
}

#[tokio::test]
async fn an_input_that_is_too_long_explains_nothing_and_a_node_that_refuses_has_not_searched() {
    let mut chain = chain();
    chain.mine(5, TX, tokens()[0], &[taken(900)]);
    let borne: Borne<'_> = &|_, _| Vec::new();
    for (answer, expected) in [
        (json!({ "result": "0".repeat(600 << 10) }), (1, 1)),
        (json!({ "error": { "code": -32005, "message": "slow down" } }), (0, 0)),
    ] {
        let chain = chain.clone();
        let node = Fake::replying(move |method, params| match method {
            "eth_getTransactionByHash" => answer.clone(),
            _ => chain.answer(method, params),
        })
        .await;
        let seen = outflows(
            &tls(),
            NETWORK,
            &[node.node()],
            WALLET,
            0..=100,
            |_, _| false,
            Some(borne),
        )
        .await;
        assert_eq!((seen.found.len(), seen.searched_by), expected, "{seen:?}");
    }
}
