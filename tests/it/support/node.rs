//! A node in front of the lab's chain that forwards requests and can be made to lie, to fail, or to report the newest
//! block as final, so that finality needs no mining, which would move the clock of the shared chain.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::lab::{Lab, post};
use super::origin::{Origin, Seen, Speaks, answer, certificate};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Every mined block is final.
    Final,
    /// As the chain reports it: anvil calls a block final 64 blocks later.
    Slow,
    /// As `Final`, but it has never seen a payment.
    Denying,
    /// 503 to everything.
    Down,
}

pub(crate) struct Node {
    origin: Origin,
    mood: Arc<Mutex<Mood>>,
}

impl Node {
    pub(crate) async fn of(lab: &Lab, mood: Mood) -> Self {
        Self::before(&lab.rpc, mood).await
    }

    /// In front of the chain at that URL.
    pub(crate) async fn before(rpc: &str, mood: Mood) -> Self {
        let mood = Arc::new(Mutex::new(mood));
        let (now, url) = (mood.clone(), rpc.to_owned());
        let script = move |request: Seen| {
            let (mood, url) = (*now.lock().unwrap(), url.clone());
            async move {
                let question: Value = serde_json::from_slice(&request.body).unwrap();
                match mood {
                    Mood::Down => answer(503, &[], "busy"),
                    Mood::Final | Mood::Slow | Mood::Denying => {
                        let said = said(mood, &url, question).to_string();
                        answer(200, &[("content-type", "application/json")], said)
                    }
                }
            }
        };
        let origin = Origin::start(Speaks::Plain, certificate(&["localhost"], |_| {}), script).await;
        Self { origin, mood }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.origin.address.port())
    }

    pub(crate) fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

fn said(mood: Mood, url: &str, mut question: Value) -> Value {
    let method = question["method"].as_str().unwrap().to_owned();
    let result = match (mood, method.as_str()) {
        // The result word of a contract call that means `false` or zero.
        (Mood::Denying, "eth_call") => json!(format!("0x{:064x}", 0)),
        (Mood::Denying, "eth_getLogs") => json!([]),
        (Mood::Denying, "eth_getTransactionReceipt") => Value::Null,
        _ => {
            if mood != Mood::Slow && question["params"][0] == "finalized" {
                question["params"][0] = json!("latest");
            }
            return post(url, &question.to_string());
        }
    };
    json!({ "jsonrpc": "2.0", "id": question["id"], "result": result })
}
