//! Real counterparts: an anvil chain with an EIP-3009 token at the real Base Sepolia USDC address, and the reference
//! facilitator and sellers from npm (`tests/interop`). Started once for all tests.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

pub(crate) struct Lab {
    pub rpc: String,
    /// With [`Extras::tempo`].
    pub tempo: Option<Tempo>,
    pub v2: String,
    pub v1: String,
    pub mpp: String,
    pub facilitator: String,
    pub token: String,
    pub payer: String,
    pub pay_to: String,
    pub node: PathBuf,
    pub ca_pem: String,
    _stdin: ChildStdin,
    child: Child,
}

/// Optional parts of a lab.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extras<'a> {
    /// A Tempo chain.
    pub tempo: bool,
    /// The Stripe on loopback where the MPP seller charges Shared Payment Tokens, with the key of the tests' seller.
    pub stripe: Option<&'a str>,
}

/// A Tempo chain. Its seller is the lab's MPP seller.
pub(crate) struct Tempo {
    pub rpc: String,
    pub chain_id: u64,
    /// pathUSD.
    pub token: String,
    /// Pays the fees of sponsored sales.
    pub sponsor: String,
}

pub(crate) fn interop() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

/// Whether `npm ci` has been run in `tests/interop`; `tests/all.sh` does, and says so when it cannot.
pub(crate) fn installed() -> bool {
    let packages = ["@x402/express", "mppx"];
    packages
        .iter()
        .all(|name| interop().join("node_modules").join(name).is_dir())
}

impl Lab {
    /// A separate lab, so that balances can be compared exactly.
    pub(crate) fn start() -> Self {
        Self::start_with(Extras::default())
    }

    pub(crate) fn start_with(extras: Extras<'_>) -> Self {
        assert!(
            installed(),
            "run `npm ci` in tests/interop first, or tests/all.sh, which does"
        );
        let dir = tempfile::tempdir().unwrap().keep();
        let (ca_pem, cert, key) = super::origin::pem_files(&dir);
        let mut command = Command::new("node");
        command.arg(interop().join("lab.mjs"));
        command.arg("--cert").arg(cert).arg("--key").arg(key);
        if extras.tempo {
            command.arg("--tempo");
        }
        if let Some(stripe) = extras.stripe {
            command.args(["--stripe", stripe, "--stripe-key", super::stripe::SELLER_KEY]);
        }
        let mut child = command
            .env_remove("HTTP_PROXY")
            .env_remove("HTTPS_PROXY")
            .env_remove("NODE_USE_ENV_PROXY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the lab said {line:?}"));
        let text = |name: &str| said[name].as_str().unwrap().to_owned();
        let _ = std::fs::remove_dir_all(dir);
        let tempo = said.get("tempo").map(|tempo| Tempo {
            rpc: tempo["rpc"].as_str().unwrap().to_owned(),
            chain_id: tempo["chainId"].as_u64().unwrap(),
            token: tempo["token"].as_str().unwrap().to_owned(),
            sponsor: tempo["sponsor"].as_str().unwrap().to_owned(),
        });
        assert_eq!(tempo.is_some(), extras.tempo);
        Self {
            tempo,
            rpc: text("rpc"),
            v2: text("v2"),
            v1: text("v1"),
            mpp: text("mpp"),
            facilitator: text("facilitator"),
            token: text("token"),
            payer: text("payer"),
            pay_to: text("payTo"),
            node: text("node").into(),
            ca_pem,
            _stdin: stdin,
            child,
        }
    }

    /// Atoms that `owner` holds on the chain now.
    pub(crate) fn balance(&self, owner: &str) -> u128 {
        balance(&self.rpc, &self.token, owner)
    }

    /// What a seller reports it saw.
    pub(crate) fn seen(&self, seller: &str) -> Value {
        let out = Command::new("curl")
            .args(["-sk", "--noproxy", "*", &format!("{seller}/_seen")])
            .output()
            .unwrap();
        serde_json::from_slice(&out.stdout).unwrap()
    }
}

impl Tempo {
    /// Atoms of pathUSD that `owner` holds now.
    pub(crate) fn balance(&self, owner: &str) -> u128 {
        balance(&self.rpc, &self.token, owner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Its parts exit when their stdin closes; this is for a lab that hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn balance(rpc: &str, token: &str, owner: &str) -> u128 {
    let data = format!("0x70a08231{:0>64}", owner.trim_start_matches("0x"));
    let call = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [{ "to": token, "data": data }, "latest"] });
    let answer = post(rpc, &call.to_string());
    let word = answer["result"].as_str().unwrap().trim_start_matches("0x");
    u128::from_str_radix(word, 16).unwrap()
}

/// One JSON-RPC call over plain HTTP/1.1.
pub(crate) fn post(url: &str, body: &str) -> Value {
    let out = Command::new("curl")
        .args([
            "-s",
            "--noproxy",
            "*",
            "-H",
            "content-type: application/json",
            "-d",
            body,
            url,
        ])
        .output()
        .unwrap();
    serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|_| panic!("{url} said {:?}", String::from_utf8_lossy(&out.stdout)))
}
