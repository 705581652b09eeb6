//! Contract calls: what a wallet holds, what it allows, and whether a nonce is used up.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall, sol};
use serde_json::{Value, json};

use super::{ANSWER_CAP, Node, RpcError, wire};
use bursar_core::assets::Token;
use bursar_core::challenge::permit2::PERMIT2;
use bursar_net::tls::upstream::UpstreamTls;

sol! {
    function balanceOf(address owner) external view returns (uint256 balance);
    function allowance(address owner, address spender) external view returns (uint256 allowed);
    function nonces(address owner) external view returns (uint256 nonce);
    function nonceBitmap(address owner, uint256 word) external view returns (uint256 bits);
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool spent);
}

/// What nodes say about a state that they have pruned or not reached. Their error codes do not help: most say -32000.
const STATE_IS_GONE: [&str; 11] = [
    "missing trie node",
    "pruned",
    "historical state",
    "state not available",
    "state is not available",
    "state unavailable",
    "archive",
    "maximum proof window",
    "header not found",
    "block not found",
    "unknown block",
];

/// The block whose state a call reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Newest,
    Block(u64),
}

impl Node {
    /// Atoms of `asset` that `owner` holds at the newest block.
    pub async fn balance(&self, tls: &UpstreamTls, token: &Token, owner: Address) -> Result<U256, RpcError> {
        let call = balanceOfCall { owner }.abi_encode();
        let word = self.call(tls, token.address, call, At::Newest).await?;
        // There is no contract at this address, so nobody holds anything of it: a fork or a sandbox without this token.
        if word.is_empty() {
            return Ok(U256::ZERO);
        }
        self.returned::<balanceOfCall>(&word)
    }

    /// Atoms of `token` that `spender` may move out of `owner` at the newest block.
    pub async fn allowance(
        &self,
        tls: &UpstreamTls,
        token: &Token,
        owner: Address,
        spender: Address,
    ) -> Result<U256, RpcError> {
        let call = allowanceCall { owner, spender }.abi_encode();
        let word = self.call(tls, token.address, call, At::Newest).await?;
        self.returned::<allowanceCall>(&word)
    }

    /// EIP-2612 `nonces`: the nonce that the owner's next permit must use.
    pub(crate) async fn permit_nonce(
        &self,
        tls: &UpstreamTls,
        token: &Token,
        owner: Address,
    ) -> Result<U256, RpcError> {
        let call = noncesCall { owner }.abi_encode();
        let word = self.call(tls, token.address, call, At::Newest).await?;
        self.returned::<noncesCall>(&word)
    }

    /// Whether this nonce of the owner's was used at Permit2, or invalidated by the owner.
    pub async fn permit2_spent(
        &self,
        tls: &UpstreamTls,
        owner: Address,
        nonce: B256,
        at: At,
    ) -> Result<bool, RpcError> {
        let nonce = U256::from_be_bytes(nonce.0);
        let word = nonce >> 8;
        let call = nonceBitmapCall { owner, word }.abi_encode();
        let answer = self.call(tls, PERMIT2, call, at).await?;
        let bits = self.returned::<nonceBitmapCall>(&answer)?;
        Ok(bits.bit(usize::from(nonce.byte(0))))
    }

    /// EIP-3009 `authorizationState`: true once the nonce was used **or** cancelled.
    ///
    /// Fails with `NoState` if the node does not keep the state of that block.
    pub async fn authorization_state(
        &self,
        tls: &UpstreamTls,
        token: Address,
        authorizer: Address,
        nonce: B256,
        at: At,
    ) -> Result<bool, RpcError> {
        let call = authorizationStateCall { authorizer, nonce }.abi_encode();
        let word = self.call(tls, token, call, at).await?;
        self.returned::<authorizationStateCall>(&word)
    }

    /// Decodes the result. The decoder ignores bytes after it, which an honest answer does not have.
    fn returned<C: SolCall>(&self, answer: &[u8]) -> Result<C::Return, RpcError> {
        let returned = C::abi_decode_returns_validate(answer).map_err(|_| self.odd())?;
        match C::abi_encode_returns(&returned) == answer {
            true => Ok(returned),
            false => Err(self.odd()),
        }
    }

    async fn call(&self, tls: &UpstreamTls, to: Address, call: Vec<u8>, at: At) -> Result<Bytes, RpcError> {
        let question = json!([{ "to": to, "data": Bytes::from(call) }, at.parameter()]);
        match (self.ask(tls, "eth_call", question, ANSWER_CAP).await, at) {
            (Ok(wire::Data(word)), _) => Ok(word),
            (Err(RpcError::Refused { message, .. }), At::Block(block)) if is_about_state(&message) => {
                Err(RpcError::NoState {
                    node: self.shown(),
                    block,
                })
            }
            (Err(error), _) => Err(error),
        }
    }
}

impl At {
    fn parameter(self) -> Value {
        match self {
            Self::Newest => json!("latest"),
            Self::Block(number) => json!(format!("{number:#x}")),
        }
    }
}

fn is_about_state(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    STATE_IS_GONE.iter().any(|phrase| message.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, tls};
    use super::*;

    const TOKEN: Address = Address::repeat_byte(0x70);
    const WALLET: Address = Address::repeat_byte(0x0a);
    const NONCE: B256 = B256::repeat_byte(0x11);

    async fn state(reply: Value, at: At) -> Result<bool, RpcError> {
        let fake = Fake::replying(move |_, _| reply.clone()).await;
        fake.node().authorization_state(&tls(), TOKEN, WALLET, NONCE, at).await
    }

    #[tokio::test]
    async fn a_state_is_one_word_of_zero_or_one() {
        let word = |number: u64| json!({ "result": format!("0x{number:064x}") });
        assert!(!state(word(0), At::Newest).await.unwrap());
        assert!(state(word(1), At::Block(7)).await.unwrap());
        for bad in [
            word(2),
            json!({ "result": "0x" }),
            json!({ "result": "0x01" }),
            json!({ "result": true }),
            json!({ "result": null }),
            json!({ "result": format!("0x{:0128x}", 1) }),
        ] {
            let shown = bad.to_string();
            let error = state(bad, At::Block(7)).await.unwrap_err();
            assert!(matches!(error, RpcError::Answer { .. }), "{shown}: {error}");
        }
    }

    /// A fork or a sandbox need not have every token of the table, and its absence is no fault of the node.
    #[tokio::test]
    async fn of_a_token_without_a_contract_nobody_holds_anything() {
        let token = bursar_core::assets::tokens_of(bursar_core::assets::Network::Eip155(84_532))
            .next()
            .unwrap();
        for (result, held) in [
            ("0x".to_owned(), Some(0)),
            (format!("0x{:064x}", 7), Some(7)),
            ("0x07".to_owned(), None),
        ] {
            let reply = json!({ "result": result });
            let fake = Fake::replying(move |_, _| reply.clone()).await;
            let balance = fake.node().balance(&tls(), token, WALLET).await;
            assert_eq!(balance.ok(), held.map(U256::from), "{result}");
        }
    }

    #[tokio::test]
    async fn a_state_that_is_gone_is_recognized() {
        for message in [
            "missing trie node 5f (path ) state 0x5f is not available",
            "historical state 0x12 is not available",
            "state at block #7 is pruned",
            "distance to target block exceeds maximum proof window",
            "header not found",
        ] {
            let reply = json!({ "error": { "code": -32000, "message": message } });
            let error = state(reply, At::Block(7)).await.unwrap_err();
            assert!(
                matches!(error, RpcError::NoState { block: 7, .. }),
                "{message}: {error}"
            );
        }
        let reply = json!({ "error": { "code": 3, "message": "execution reverted" } });
        let error = state(reply, At::Block(7)).await.unwrap_err();
        assert!(matches!(error, RpcError::Refused { code: 3, .. }), "{error}");
    }

    #[tokio::test]
    async fn the_question_names_block_wallet_and_nonce() {
        let fake = Fake::replying(|method, params| {
            assert_eq!(method, "eth_call");
            assert_eq!(params[0]["to"], json!(TOKEN));
            let data = format!("0xe94a0102{:0>64}{:x}", format!("{WALLET:x}"), NONCE);
            assert_eq!(params[0]["data"], data);
            assert_eq!(params[1], "0x1f");
            json!({ "result": format!("0x{:064x}", 0) })
        })
        .await;
        let at = At::Block(31);
        let spent = fake.node().authorization_state(&tls(), TOKEN, WALLET, NONCE, at).await;
        assert!(!spent.unwrap());
    }
}
