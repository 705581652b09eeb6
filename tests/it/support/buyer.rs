//! A buyer on the lab's chain: a server with its own wallet, so that a test counts only its own money while others buy
//! from the same sellers.

use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bursar::{Bursar, Home, LIMITS, bursar};
use super::lab::{Extras, Lab, Tempo, installed, post};

/// keccak256("Transfer(address,address,uint256)")
const TRANSFER: &str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";

/// Whether a missing tool fails a test (CI) or skips it.
pub(crate) fn strict() -> bool {
    std::env::var_os("BURSAR_TEST_STRICT").is_some_and(|value| value == "1")
}

/// For tests that need a tool the machine may lack; `need` says which, and how to get it.
pub(crate) fn skip(need: &str) {
    assert!(!strict(), "BURSAR_TEST_STRICT=1 and {need}");
    eprintln!("skipped: {need}");
}

/// The lab shared by this test process, with a Tempo chain: one lab costs less than two. It ends when the process exits
/// and so closes the lab's standard input.
pub(crate) fn lab() -> Option<&'static Lab> {
    static LAB: OnceLock<Lab> = OnceLock::new();
    if !installed() {
        skip("the lab is not installed: run `npm ci` in tests/interop");
        return None;
    }
    let extras = Extras {
        tempo: true,
        stripe: None,
    };
    Some(LAB.get_or_init(|| Lab::start_with(extras)))
}

/// The Tempo chain of [`lab`].
pub(crate) fn tempo(lab: &Lab) -> &Tempo {
    lab.tempo.as_ref().expect("the shared lab has one")
}

pub(crate) struct Buyer {
    pub bursar: Bursar,
    pub wallet: String,
    lab: &'static Lab,
}

/// Money that moved on the chain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub to: String,
    pub atoms: u128,
    pub tx: String,
}

/// A server with a new wallet that holds `atoms`, and the limits that most tests use.
pub(crate) fn buyer(lab: &'static Lab, atoms: u128) -> Buyer {
    buyer_within(lab, atoms, LIMITS)
}

pub(crate) fn buyer_within(lab: &'static Lab, atoms: u128, limits: &str) -> Buyer {
    buyer_asking(lab, atoms, limits, std::slice::from_ref(&lab.rpc), "")
}

/// As [`buyer_within`], with `nodes` in place of the lab's own, and `more_ca` trusted in addition to the lab's sellers.
pub(crate) fn buyer_asking(lab: &'static Lab, atoms: u128, limits: &str, nodes: &[String], more_ca: &str) -> Buyer {
    let networks = format!("[networks.\"eip155:84532\"]\nrpc = {nodes:?}\n");
    buyer_on(lab, limits, &networks, more_ca, |wallet| fund(lab, wallet, atoms))
}

/// A server with a new wallet, funded by `fund` before anybody reads its balance. `networks` are sections of
/// bursar.toml.
pub(crate) fn buyer_on(
    lab: &'static Lab,
    limits: &str,
    networks: &str,
    more_ca: &str,
    fund: impl FnOnce(&str),
) -> Buyer {
    let dir = tempfile::tempdir().unwrap();
    let made = bursar(dir.path(), &["init", "--wallet"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let said = String::from_utf8(made.stdout).unwrap();
    let wallet = said.lines().find_map(|line| line.strip_prefix("Wallet ")).unwrap();
    fund(wallet);
    std::fs::write(dir.path().join("seller-ca.pem"), format!("{}{more_ca}", lab.ca_pem)).unwrap();
    let config = format!(
        "[proxy]\nlisten = \"127.0.0.1:0\"\n[upstream]\nextra_ca = \"seller-ca.pem\"\nallow_private = [\"127.0.0.0/8\", \"::1/128\"]\n\
         [wallet.evm]\nkey = \"file:wallet.key\"\n{networks}"
    );
    std::fs::write(dir.path().join("bursar.toml"), config).unwrap();
    std::fs::write(dir.path().join("limits.toml"), limits).unwrap();
    let added = bursar(dir.path(), &["agents", "add", "research"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let token = String::from_utf8(added.stdout).unwrap().trim().to_owned();
    Buyer {
        wallet: wallet.to_owned(),
        bursar: Home { dir, token }.serve(),
        lab,
    }
}

impl Buyer {
    /// Every transfer out of the wallet, in order.
    pub(crate) fn transfers(&self) -> Vec<Transfer> {
        transfers(&self.lab.rpc, &self.lab.token, &self.wallet)
    }

    pub(crate) fn balance(&self) -> u128 {
        self.lab.balance(&self.wallet)
    }
}

/// Every transfer of `token` out of `wallet`, in order.
pub(crate) fn transfers(rpc: &str, token: &str, wallet: &str) -> Vec<Transfer> {
    let sender = word(wallet);
    let filter = json!({ "fromBlock": "0x0", "toBlock": "latest", "address": token, "topics": [TRANSFER, sender] });
    let logs = ask(rpc, "eth_getLogs", json!([filter]));
    let transfer = |log: &Value| Transfer {
        to: format!("0x{}", &log["topics"][2].as_str().unwrap()[26..]),
        atoms: u128::from_str_radix(log["data"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap(),
        tx: log["transactionHash"].as_str().unwrap().to_owned(),
    };
    logs.as_array().unwrap().iter().map(transfer).collect()
}

/// Mints; the sender is an unlocked anvil account that sends nothing else.
pub(crate) fn fund(lab: &Lab, owner: &str, atoms: u128) {
    if atoms > 0 {
        send(
            &lab.rpc,
            &lab.payer,
            &lab.token,
            &format!("0x40c10f19{}{atoms:064x}", &word(owner)[2..]),
        );
    }
}

/// Sends pathUSD from anvil's own account.
pub(crate) fn fund_tempo(lab: &Lab, owner: &str, atoms: u128) {
    let tempo = tempo(lab);
    if atoms > 0 {
        send(
            &tempo.rpc,
            &lab.payer,
            &tempo.token,
            &format!("0xa9059cbb{}{atoms:064x}", &word(owner)[2..]),
        );
    }
}

/// Sends a transaction from an account that anvil signs for, and waits until it is mined. One at a time: anvil picks
/// the account's nonce on each request and may use the same one twice.
pub(crate) fn send(rpc: &str, from: &str, to: &str, data: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let tx = ask(
        rpc,
        "eth_sendTransaction",
        json!([{ "from": from, "to": to, "data": data }]),
    );
    let began = Instant::now();
    loop {
        let receipt = ask(rpc, "eth_getTransactionReceipt", json!([tx]));
        if !receipt.is_null() {
            assert_eq!(receipt["status"], "0x1", "{receipt}");
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "not mined: {tx}");
    }
}

/// Sends a transaction from the wallet, which gets the ether for it.
pub(crate) fn send_as(lab: &Lab, wallet: &str, to: &str, data: &str) -> String {
    rpc(lab, "anvil_setBalance", json!([wallet, "0xde0b6b3a7640000"]));
    rpc(lab, "anvil_impersonateAccount", json!([wallet]));
    let sent = rpc(
        lab,
        "eth_sendTransaction",
        json!([{ "from": wallet, "to": to, "data": data }]),
    );
    sent.as_str().unwrap().to_owned()
}

/// Where a seller listens.
pub(crate) fn site(url: &str) -> SocketAddr {
    let port = url.rsplit_once(':').unwrap().1;
    format!("127.0.0.1:{port}").parse().unwrap()
}

pub(crate) fn rpc(lab: &Lab, method: &str, params: Value) -> Value {
    ask(&lab.rpc, method, params)
}

pub(crate) fn ask(url: &str, method: &str, params: Value) -> Value {
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let mut answer = post(url, &call.to_string());
    assert!(answer["error"].is_null(), "{method}: {answer}");
    answer["result"].take()
}

/// An address as a 32-byte word.
pub(crate) fn word(address: &str) -> String {
    format!("0x{:0>64}", address.trim_start_matches("0x").to_lowercase())
}
