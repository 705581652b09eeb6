//! Real counterparts: an anvil chain with an EIP-3009 token at the real Base Sepolia USDC address, the reference
//! facilitator and sellers from npm (`tests/interop`). Started once for all tests.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

pub struct Lab {
    pub rpc: String,
    pub v2: String,
    pub v1: String,
    pub mpp: String,
    pub facilitator: String,
    pub token: String,
    pub payer: String,
    pub pay_to: String,
    pub node: PathBuf,
    pub ca_pem: String,
    /// Of a lab that was started with `--tempo`.
    pub tempo: Option<Tempo>,
    _stdin: ChildStdin,
    child: Child,
}

/// A Tempo chain, and the token of every price there.
pub struct Tempo {
    pub rpc: String,
    pub token: String,
}

pub fn interop() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

/// Whether `npm ci` has been run in `tests/interop`; `tests/all.sh` does, and says so when it cannot.
pub fn installed() -> bool {
    let packages = ["@x402/express", "mppx"];
    packages
        .iter()
        .all(|name| interop().join("node_modules").join(name).is_dir())
}

impl Lab {
    /// A lab of its own, so that balances can be compared exactly.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Lab::start`], with more options of `lab.mjs`.
    pub fn start_with(options: &[&str]) -> Self {
        assert!(
            installed(),
            "run `npm ci` in tests/interop first, or tests/all.sh, which does"
        );
        let dir = tempfile::tempdir().unwrap().keep();
        let (ca_pem, cert, key) = super::origin::pem_files(&dir);
        let mut child = Command::new("node")
            .arg(interop().join("lab.mjs"))
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key)
            .args(options)
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
        Self {
            rpc: text("rpc"),
            v2: text("v2"),
            v1: text("v1"),
            mpp: text("mpp"),
            facilitator: text("facilitator"),
            token: text("token"),
            payer: text("payer"),
            pay_to: text("payTo"),
            tempo: said.get("tempo").map(|tempo| Tempo {
                rpc: tempo["rpc"].as_str().unwrap().to_owned(),
                token: tempo["token"].as_str().unwrap().to_owned(),
            }),
            node: text("node").into(),
            ca_pem,
            _stdin: stdin,
            child,
        }
    }

    /// Atoms that `owner` holds on the chain now.
    pub fn balance(&self, owner: &str) -> u128 {
        let data = format!("0x70a08231{:0>64}", owner.trim_start_matches("0x"));
        let call = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [{ "to": self.token, "data": data }, "latest"] });
        let answer = post(&self.rpc, &call.to_string());
        let word = answer["result"].as_str().unwrap().trim_start_matches("0x");
        u128::from_str_radix(word, 16).unwrap()
    }

    /// What a seller says it saw.
    pub fn seen(&self, seller: &str) -> Value {
        let out = Command::new("curl")
            .args(["-sk", "--noproxy", "*", &format!("{seller}/_seen")])
            .output()
            .unwrap();
        serde_json::from_slice(&out.stdout).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Its parts end with their stdin; this is for a lab that hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One JSON-RPC call over plain HTTP/1.1.
pub fn post(url: &str, body: &str) -> Value {
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
