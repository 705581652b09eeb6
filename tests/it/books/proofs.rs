//! What Permit2 and Tempo prove about a payment, on real chains: what counts afterwards is what moved there.

use std::process::Output;
use std::time::Duration;

use ::bursar_core::assets::Network;
use ::bursar_net::tls::upstream::{Trust, UpstreamTls};
use ::bursar_rails::rpc as asked_rpc;
use ::bursar_reconcile::{Facts, Finality, Proof, Unproven, Verdict, verdict};
use alloy_primitives::{Address, B256, Bytes, U256, hex};
use alloy_sol_types::{SolCall, sol};
use serde_json::{Value, json};

use crate::books::evidence::facts;
use crate::support::agent::Agent;
use crate::support::bursar::Bursar;
use crate::support::buyer::{Buyer, buyer_asking, buyer_on, rpc, send_as, site, skip};
use crate::support::lab::{Extras, Lab, installed, post};
use crate::support::node::{Mood, Node};
use crate::support::origin::{Answer, Origin, answer};
use crate::support::seller;

const FUNDS: u128 = 1_000_000;
const MOST: u128 = 50_000;
const PERMIT2: &str = "0x000000000022d473030f116ddee9f6b43ac78ba3";
const UPTO_PROXY: &str = "0x4020a4f3b7b90cca423b9fabcc0ce57c6c240002";
/// The account of the lab's facilitator.
const FACILITATOR: &str = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8";

sol! {
    struct TokenPermissions {
        address token;
        uint256 amount;
    }
    struct PermitTransferFrom {
        TokenPermissions permitted;
        uint256 nonce;
        uint256 deadline;
    }
    struct Witness {
        address to;
        address facilitator;
        uint256 validAfter;
    }
    function settle(PermitTransferFrom permit, uint256 amount, address owner, Witness witness, bytes signature);
    function approve(address spender, uint256 amount);
    function invalidateUnorderedNonces(uint256 word, uint256 mask);
    function transfer(address to, uint256 amount);
}

/// What a credential allows the facilitator to take.
fn settling(credential: &str, amount: u128) -> Vec<u8> {
    let payload = seller::decoded(credential)["payload"].take();
    let authorization = &payload["permit2Authorization"];
    let text = |pointer: &str| authorization.pointer(pointer).unwrap().as_str().unwrap();
    let number = |pointer: &str| text(pointer).parse::<U256>().unwrap();
    let address = |pointer: &str| text(pointer).parse::<Address>().unwrap();
    let call = settleCall {
        permit: PermitTransferFrom {
            permitted: TokenPermissions {
                token: address("/permitted/token"),
                amount: number("/permitted/amount"),
            },
            nonce: number("/nonce"),
            deadline: number("/deadline"),
        },
        amount: U256::from(amount),
        owner: address("/from"),
        witness: Witness {
            to: address("/witness/to"),
            facilitator: address("/witness/facilitator"),
            validAfter: number("/witness/validAfter"),
        },
        signature: payload["signature"].as_str().unwrap().parse::<Bytes>().unwrap(),
    };
    call.abi_encode()
}

/// The facilitator takes the money, as late as it likes.
fn take(lab: &Lab, credential: &str, amount: u128) -> String {
    let data = hex::encode_prefixed(settling(credential, amount));
    let call = json!([{ "from": FACILITATOR, "to": UPTO_PROXY, "data": data }]);
    let tx = rpc(lab, "eth_sendTransaction", call);
    let receipt = rpc(lab, "eth_getTransactionReceipt", json!([tx]));
    assert_eq!(receipt["status"], "0x1", "{receipt}");
    tx.as_str().unwrap().to_owned()
}

/// Sells by `upto`; the test takes the money. `/nothing` claims that nothing was taken, other paths fail.
async fn patient(pay_to: &str) -> Origin {
    let pay_to = pay_to.to_owned();
    Origin::https(move |request| {
        let pay_to = pay_to.clone();
        async move {
            match (request.is_paid(), request.target.as_str()) {
                (false, path) => offered(&pay_to, path),
                (true, "/nothing") => nothing_taken(),
                (true, _) => answer(500, &[], "oops"),
            }
        }
    })
    .await
}

fn offered(pay_to: &str, path: &str) -> Answer {
    let mut requirement = seller::requirement(&MOST.to_string());
    requirement["scheme"] = json!("upto");
    requirement["payTo"] = json!(pay_to);
    requirement["extra"]["facilitatorAddress"] = json!(FACILITATOR);
    requirement["extra"]["assetTransferMethod"] = json!("permit2");
    seller::v2(&seller::challenge(path, &[requirement]))
}

fn nothing_taken() -> Answer {
    let receipt = json!({ "success": true, "transaction": "", "network": "eip155:84532", "amount": "0" });
    let receipt = seller::encoded(&receipt);
    answer(
        200,
        &[("payment-response", &receipt), ("content-type", "text/plain")],
        "goods",
    )
}

struct Printed {
    code: Option<i32>,
    lines: Vec<Value>,
}

impl Printed {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        Self {
            code: output.status.code(),
            lines: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        }
    }

    /// Finding and amount taken, oldest first.
    fn findings(&self) -> Vec<(&str, Option<u128>)> {
        let payments = self.lines.iter().filter(|line| line["kind"] == "payment");
        payments
            .map(|line| (line["finding"].as_str().unwrap(), atoms(&line["taken"])))
            .collect()
    }
}

fn reconcile(bursar: &Bursar) -> Printed {
    Printed::of(&bursar.run(&["reconcile", "--json"]))
}

fn atoms(value: &Value) -> Option<u128> {
    value.as_str().map(|text| text.parse().unwrap())
}

/// State, its source, and the amount taken.
fn stand(bursar: &Bursar) -> Vec<(String, String, Option<u128>)> {
    let text = |value: &Value| value.as_str().unwrap_or("nobody").to_owned();
    let of = |payment: &Value| (text(&payment["state"]), text(&payment["by"]), atoms(&payment["taken"]));
    bursar.payments().iter().map(of).collect()
}

fn state_of(state: &str, by: &str, taken: Option<u128>) -> (String, String, Option<u128>) {
    (state.to_owned(), by.to_owned(), taken)
}

/// Atoms that count, according to the ledger.
fn counted(bursar: &Bursar) -> u128 {
    let payments = bursar.payments();
    let counts = |payment: &&Value| !["expired", "released"].contains(&payment["state"].as_str().unwrap());
    let counted = payments.iter().filter(counts);
    counted
        .map(|payment| atoms(&payment["taken"]).or(atoms(&payment["amount"])).unwrap())
        .sum()
}

fn moved(buyer: &Buyer) -> u128 {
    buyer.transfers().iter().map(|transfer| transfer.atoms).sum()
}

fn entries(bursar: &Bursar, ev: &str) -> Vec<Value> {
    let mut all = bursar.journal();
    all.retain(|entry| entry["ev"] == ev);
    all
}

fn approve(lab: &Lab, buyer: &Buyer) {
    let spender = PERMIT2.parse().unwrap();
    let amount = U256::from(FUNDS);
    let data = hex::encode_prefixed(approveCall { spender, amount }.abi_encode());
    send_as(lab, &buyer.wallet, &lab.token, &data);
}

fn pass_time(lab: &Lab, seconds: u64) {
    rpc(lab, "evm_increaseTime", json!([seconds]));
    rpc(lab, "evm_mine", json!([]));
}

/// With a budget of five cents for each of `payments` payments.
async fn buyer_by_permit2(lab: &'static Lab, rail: &str, payments: u128, node: &Node, more_ca: &str) -> Buyer {
    let day = format!("0.{:02}", 5 * payments);
    let limits = format!("rails = [{rail:?}]\ntimezone = \"UTC\"\n[agents.research]\nday = \"{day}\"\n");
    let buyer = buyer_asking(lab, FUNDS, &limits, &[node.url()], more_ca);
    approve(lab, &buyer);
    buyer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upto_counts_in_full_until_the_chain_shows_its_amount() {
    if !installed() {
        return skip("the lab is not installed: run `npm ci` in tests/interop");
    }
    // Its own lab, because its clock is set ahead.
    let lab: &'static Lab = Box::leak(Box::new(Lab::start()));
    let (node, origin) = (Node::of(lab, Mood::Slow).await, patient(&lab.pay_to).await);
    let mut buyer = buyer_by_permit2(lab, "x402.upto", 4, &node, &origin.ca_pem).await;
    let agent = Agent::of(&buyer.bursar);
    assert_eq!(agent.get(site(&lab.v2), "/upto").await.status, 200);
    assert_eq!(agent.get(site(&lab.v2), "/upto-nothing").await.status, 200);
    let nothing = agent.get(origin.address, "/nothing").await;
    assert_eq!(nothing.status, 200, "{nothing:?}");
    assert_eq!(agent.get(origin.address, "/doubt").await.status, 500);
    let claimed = state_of("settled", "merchant", None);
    let unknown_payment = state_of("unknown", "nobody", None);
    let [first, second, third] = [claimed.clone(), claimed.clone(), claimed.clone()];
    assert_eq!(stand(&buyer.bursar), [first, second, third, unknown_payment.clone()]);
    assert_eq!((counted(&buyer.bursar), moved(&buyer)), (4 * MOST, 20_000));
    let page = agent.get(site(&lab.v2), "/upto?more").await;
    assert_eq!(page.status, 403, "no receipt has lowered anything: {page:?}");

    // One is proven; the others can still be taken.
    node.be(Mood::Final);
    let printed = reconcile(&buyer.bursar);
    assert_eq!(printed.code, Some(4), "{:?}", printed.lines);
    // The server may have been faster than the command.
    assert_eq!(stand(&buyer.bursar)[0], state_of("settled", "chain", Some(20_000)));
    assert_eq!(stand(&buyer.bursar)[1..], [claimed.clone(), claimed, unknown_payment]);
    assert_eq!(counted(&buyer.bursar), 20_000 + 3 * MOST);

    // The seller that claimed "0" takes all of it after all, and the one that failed takes a part.
    let credentials = origin.payments();
    let late = take(lab, &credentials[0], MOST);
    take(lab, &credentials[1], 12_345);
    let printed = reconcile(&buyer.bursar);
    assert_eq!(printed.code, Some(4), "{:?}", printed.lines);
    assert_eq!(counted(&buyer.bursar), 20_000 + MOST + MOST + 12_345);
    assert_eq!(stand(&buyer.bursar)[2], state_of("settled", "chain", Some(MOST)));
    assert_eq!(stand(&buyer.bursar)[3], state_of("settled", "chain", Some(12_345)));
    assert_eq!(buyer.bursar.payments()[2]["tx"], late.as_str());

    // What was never taken has expired once a final block is past its deadline.
    pass_time(lab, 62);
    let printed = reconcile(&buyer.bursar);
    assert_eq!(printed.code, Some(0), "{:?}", printed.lines);
    assert_eq!(stand(&buyer.bursar)[1], state_of("settled", "chain", Some(0)));
    assert_eq!(counted(&buyer.bursar), moved(&buyer));
    assert_eq!(moved(&buyer), 20_000 + MOST + 12_345);
    // All of them again, by id; nothing is recorded twice.
    let ids: Vec<String> = buyer
        .bursar
        .payments()
        .iter()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect();
    let mut by_id = vec!["reconcile", "--json"];
    by_id.extend(ids.iter().map(String::as_str));
    let again = Printed::of(&buyer.bursar.run(&by_id));
    let confirmed = [Some(20_000), Some(0), Some(MOST), Some(12_345)].map(|taken| ("confirmed", taken));
    assert_eq!(
        (again.code, again.findings()),
        (Some(0), confirmed.to_vec()),
        "{:?}",
        again.lines
    );
    assert_eq!(entries(&buyer.bursar, "pay.confirmed").len(), 3);
    assert_eq!(entries(&buyer.bursar, "pay.dispute"), [] as [Value; 0]);
    assert_eq!(entries(&buyer.bursar, "wallet.outflow"), [] as [Value; 0]);
    let back = &entries(&buyer.bursar, "pay.confirmed")[0]["back"];
    assert_eq!((&back[0][0], &back[0][3]), (&json!("agent:research"), &json!("30000")));

    // Replaying the journal gives the same counters: 11.7655 of twenty cents are left.
    assert_eq!(buyer.bursar.stop(), 0);
    std::fs::remove_dir_all(buyer.bursar.path().join("index")).unwrap();
    buyer.bursar = buyer.bursar.kill().serve();
    // By now the chain's clock is ahead of ours, so a new payment is signed but not settled.
    let agent = Agent::of(&buyer.bursar);
    let statuses = [
        agent.get(origin.address, "/a").await.status.as_u16(),
        agent.get(origin.address, "/b").await.status.as_u16(),
        agent.get(origin.address, "/c").await.status.as_u16(),
    ];
    assert_eq!(statuses, [500, 500, 403]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit2_payment_is_proven_and_an_unused_one_is_released() {
    if !installed() {
        return skip("the lab is not installed: run `npm ci` in tests/interop");
    }
    let lab: &'static Lab = Box::leak(Box::new(Lab::start()));
    let (node, origin) = (Node::of(lab, Mood::Slow).await, patient(&lab.pay_to).await);
    let buyer = buyer_by_permit2(lab, "x402.permit2", 4, &node, "").await;
    assert_eq!(
        Agent::of(&buyer.bursar).get(site(&lab.v2), "/permit2").await.status,
        200
    );
    node.be(Mood::Final);
    let printed = reconcile(&buyer.bursar);
    assert_eq!(printed.code, Some(0), "{:?}", printed.lines);
    // All of it, so there is no partial amount to show.
    assert_eq!(stand(&buyer.bursar), [state_of("settled", "chain", None)]);
    assert_eq!((counted(&buyer.bursar), moved(&buyer)), (10_000, 10_000));

    // The owner can invalidate a signature; an unknown payment has then expired before its deadline.
    node.be(Mood::Slow);
    let buyer = buyer_by_permit2(lab, "x402.upto", 4, &node, &origin.ca_pem).await;
    assert_eq!(Agent::of(&buyer.bursar).get(origin.address, "/doubt").await.status, 500);
    let nonce: B256 = buyer.bursar.payments()[0]["nonce"].as_str().unwrap().parse().unwrap();
    let nonce = U256::from_be_bytes(nonce.0);
    let call = invalidateUnorderedNoncesCall {
        word: nonce >> 8,
        mask: U256::from(1) << usize::from(nonce.byte(0)),
    };
    send_as(lab, &buyer.wallet, PERMIT2, &hex::encode_prefixed(call.abi_encode()));
    node.be(Mood::Final);
    let printed = reconcile(&buyer.bursar);
    assert_eq!(printed.code, Some(0), "{:?}", printed.lines);
    assert_eq!(stand(&buyer.bursar), [state_of("expired", "chain", None)]);
    assert_eq!(buyer.bursar.payments()[0]["reason"], "cancelled");
    assert_eq!((counted(&buyer.bursar), moved(&buyer)), (0, 0));
}

/// One JSON-RPC call of the Tempo chain.
fn on_tempo(lab: &Lab, method: &str, params: Value) -> Value {
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let mut answer = post(&lab.tempo.as_ref().unwrap().rpc, &call.to_string());
    assert!(answer["error"].is_null(), "{method}: {answer}");
    answer["result"].take()
}

/// What the token has moved out of the wallet on Tempo, without fees.
fn moved_on_tempo(lab: &Lab, wallet: &str) -> Vec<(String, u128)> {
    const TRANSFER: &str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";
    let sender = format!("0x{:0>64}", wallet.trim_start_matches("0x").to_lowercase());
    let filter = json!({
        "fromBlock": "0x0", "toBlock": "latest", "address": lab.tempo.as_ref().unwrap().token,
        "topics": [TRANSFER, sender],
    });
    let logs = on_tempo(lab, "eth_getLogs", json!([filter]));
    let to = |log: &Value| format!("0x{}", &log["topics"][2].as_str().unwrap()[26..]);
    let value = |log: &Value| u128::from_str_radix(log["data"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    let all = logs.as_array().unwrap().iter().map(|log| (to(log), value(log)));
    all.filter(|(to, _)| !to.starts_with("0xfeec")).collect()
}

fn facts_on_tempo(buyer: &Buyer, payment: &Value) -> Facts {
    Facts {
        network: Network::Eip155(42_431),
        proof: Proof::Memo,
        ..facts(buyer, payment)
    }
}

fn asking(node: &Node) -> (UpstreamTls, asked_rpc::Node) {
    let tls = UpstreamTls::new(&Trust::default(), Duration::from_secs(5)).unwrap();
    (tls, asked_rpc::Node::new(node.url().parse().unwrap()))
}

/// As of the newest block, with a clock in step with the chain's.
async fn verdict_of(node: &Node, facts: &Facts) -> Verdict {
    let (tls, asked) = asking(node);
    let now = asked.newest(&tls).await.unwrap().timestamp;
    let nodes = [asked];
    let finality = Finality::of(&tls, facts.network, &nodes, now).await;
    let evidence = finality.evidence(&tls, facts).await;
    assert_eq!(evidence.silent, []);
    verdict(facts, &evidence)
}

async fn verdict_on_tempo(node: &Node, buyer: &Buyer, payment: &Value) -> Verdict {
    verdict_of(node, &facts_on_tempo(buyer, payment)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_tempo_the_memo_proves_payment_and_its_absence_proves_none() {
    if !installed() {
        return skip("the lab is not installed: run `npm ci` in tests/interop");
    }
    let lab: &'static Lab = Box::leak(Box::new(Lab::start_with(Extras {
        tempo: true,
        ..Extras::default()
    })));
    let tempo = lab.tempo.as_ref().unwrap();
    let node = Node::before(&tempo.rpc, Mood::Down).await;
    let limits = "rails = [\"mpp.tempo\"]\ntimezone = \"UTC\"\n[agents.research]\nday = \"0.19\"\n";
    let buyer = buyer_on(
        lab,
        limits,
        &format!("[networks.\"eip155:42431\"]\nrpc = [\"{}\"]\n", node.url()),
        "",
        |_| {},
    );
    let (to, amount) = (buyer.wallet.parse().unwrap(), U256::from(FUNDS));
    let data = hex::encode_prefixed(transferCall { to, amount }.abi_encode());
    let call = json!([{ "from": lab.payer, "to": tempo.token, "data": data }]);
    on_tempo(lab, "eth_sendTransaction", call);

    let agent = Agent::of(&buyer.bursar);
    for (path, status) in [
        ("/mpp/tempo", 200),
        ("/mpp/tempo-sponsored", 200),
        ("/mpp/tempo-broken", 500),
    ] {
        let page = agent.get(site(&lab.mpp), path).await;
        assert_eq!(page.status, status, "{path}: {page:?}");
    }
    let claimed = || state_of("settled", "merchant", None);
    let unknown_payment = state_of("unknown", "nobody", None);
    assert_eq!(stand(&buyer.bursar), [claimed(), claimed(), unknown_payment.clone()]);
    let page = agent.get(site(&lab.mpp), "/mpp/tempo").await;
    assert_eq!(page.status, 403, "what may still be mined counts: {page:?}");

    // Blocks come every second, so the latest is slightly old.
    node.be(Mood::Final);
    let printed = reconcile(&buyer.bursar);
    let paid = || state_of("settled", "chain", None);
    assert_eq!(
        stand(&buyer.bursar),
        [paid(), paid(), unknown_payment],
        "{:?}",
        printed.lines
    );
    assert_eq!(printed.code, Some(4));

    // An expired transaction is never mined later, but a node that shows none is not believed that soon.
    on_tempo(lab, "evm_increaseTime", json!([27]));
    on_tempo(lab, "evm_mine", json!([]));
    let printed = reconcile(&buyer.bursar);
    assert_eq!(printed.code, Some(4), "{:?}", printed.lines);
    let unknown_payment = state_of("unknown", "nobody", None);
    assert_eq!(stand(&buyer.bursar), [paid(), paid(), unknown_payment]);
    on_tempo(lab, "evm_increaseTime", json!([600]));
    on_tempo(lab, "evm_mine", json!([]));
    let payments = buyer.bursar.payments();
    let verdict = verdict_on_tempo(&node, &buyer, &payments[2]).await;
    assert!(matches!(verdict, Verdict::Expired { .. }), "{verdict:?}");
    let verdict = verdict_on_tempo(&node, &buyer, &payments[1]).await;
    assert!(matches!(verdict, Verdict::Settled { .. }), "{verdict:?}");
    // Nor is a node that does not show what its headers refer to.
    node.be(Mood::Denying);
    let unclear = Facts {
        claimed_tx: None,
        ..facts_on_tempo(&buyer, &payments[1])
    };
    let verdict = verdict_of(&node, &unclear).await;
    let why = Unproven::Unexplained;
    assert_eq!(verdict, Verdict::Unclear { why });
    node.be(Mood::Final);
    // A Tempo transaction shows its memo.
    let (tls, asked) = asking(&node);
    let word = |text: &Value| text.as_str().unwrap().parse::<B256>().unwrap();
    let tx = word(&payments[0]["tx"]);
    for (payment, expected) in payments.iter().zip([true, false, false]) {
        let memo = word(&payment["nonce"]);
        assert_eq!(asked.has_in_it(&tls, tx, &memo).await.unwrap(), expected);
    }
    let moved = moved_on_tempo(lab, &buyer.wallet);
    let pay_to = lab.pay_to.to_lowercase();
    assert_eq!(moved, [(pay_to.clone(), MOST), (pay_to, MOST)]);
    assert_eq!(counted(&buyer.bursar), 3 * MOST);
    // Fees are not reported as unexplained transfers.
    assert_eq!(entries(&buyer.bursar, "wallet.outflow"), [] as [Value; 0]);
}
