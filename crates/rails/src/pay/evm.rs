//! The wallet for EVM networks: one secp256k1 key. This module signs EIP-3009 authorizations (under EIP-712, x402
//! §4.1); `permit2` signs for Permit2, and `tempo` for Tempo.

use std::borrow::Cow;

use alloy_primitives::{Address, B256, U256, hex};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use secrecy::SecretString;
use thiserror::Error;
use zeroize::Zeroizing;

use super::keystore::{self, KeystoreError};
use bursar_core::assets::Token;
use bursar_core::challenge::Authorization;
use bursar_core::clock;

/// The key that pays. It has no `Debug` and cannot be read back; wiped when dropped.
pub struct Wallet {
    key: SigningKey,
    address: Address,
}

/// Why there is no wallet. Never holds any part of a key.
#[derive(Debug, Error)]
pub enum WalletError {
    #[error("the key is not 64 hexadecimal digits")]
    NotHex,
    #[error("the key is zero or too large for secp256k1")]
    NotAKey,
    #[error("the keystore cannot be used: {0}")]
    Keystore(#[from] KeystoreError),
    #[error("the keystore names the address {named}, but its key belongs to {actual}")]
    OtherAddress { named: Address, actual: Address },
    #[error("the operating system gave no random bytes: {0}")]
    NoRandomness(getrandom::Error),
}

sol! {
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

impl Wallet {
    /// Reads a key of 64 hex digits, with or without `0x`. Whitespace around it is ignored, because files end in a line
    /// break.
    pub fn from_hex(text: &str) -> Result<Self, WalletError> {
        let text = text.trim();
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut secret = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, secret.as_mut_slice()).map_err(|_| WalletError::NotHex)?;
        Self::from_secret(&secret)
    }

    /// Opens a keystore file (Web3 Secret Storage version 3, scrypt). Takes about a second by design.
    pub fn from_keystore(json: &str, password: &str) -> Result<Self, WalletError> {
        let opened = keystore::open(json, password)?;
        let wallet = Self::from_secret(&opened.secret)?;
        match opened.address {
            Some(named) if named != wallet.address => Err(WalletError::OtherAddress {
                named,
                actual: wallet.address,
            }),
            _ => Ok(wallet),
        }
    }

    /// Makes a new key. The second value is the key as `0x` and 64 hex digits, to be stored.
    pub fn generate() -> Result<(Self, SecretString), WalletError> {
        loop {
            let secret = Zeroizing::new(clock::random::<32>().map_err(WalletError::NoRandomness)?);
            // One draw in 2^128 is not a valid key.
            if let Ok(wallet) = Self::from_secret(&secret) {
                let text = hex::encode_prefixed(secret.as_slice());
                return Ok((wallet, SecretString::from(text)));
            }
        }
    }

    pub fn address(&self) -> Address {
        self.address
    }

    pub(crate) fn sign_authorization(&self, token: &Token, authorization: &Authorization) -> [u8; 65] {
        self.sign(&message(authorization), &domain(token))
    }

    /// Signs typed data, only of the kinds that `pay` defines (threat 1.11).
    pub(super) fn sign(&self, message: &impl SolStruct, domain: &Eip712Domain) -> [u8; 65] {
        self.sign_digest(&message.eip712_signing_hash(domain))
    }

    /// Signs a digest that `pay` computed, never one from elsewhere.
    ///
    /// Returns r, s, v, with low s and v = 27 or 28. Deterministic (RFC 6979): signing twice gives the same bytes.
    pub(super) fn sign_digest(&self, digest: &B256) -> [u8; 65] {
        let (signature, recovery) = self.key.sign_prehash_recoverable(digest.as_slice());
        alloy_primitives::Signature::from_bytes_and_parity(&signature.to_bytes(), recovery.is_y_odd()).as_bytes()
    }

    fn from_secret(secret: &[u8; 32]) -> Result<Self, WalletError> {
        let key = SigningKey::from_slice(secret).map_err(|_| WalletError::NotAKey)?;
        let point = key.verifying_key().to_sec1_point(false);
        // SEC1 puts the byte 4 before the 64 bytes of an uncompressed point.
        let address = Address::from_raw_public_key(&point.as_bytes()[1..]);
        Ok(Self { key, address })
    }
}

/// The token's domain: four fields, no salt, all from our table (R22).
pub(super) fn domain(token: &Token) -> Eip712Domain {
    Eip712Domain::new(
        Some(Cow::Borrowed(token.eip712_name)),
        Some(Cow::Borrowed(token.eip712_version)),
        Some(U256::from(token.chain)),
        Some(token.address),
        None,
    )
}

pub(super) fn message(authorization: &Authorization) -> TransferWithAuthorization {
    TransferWithAuthorization {
        from: authorization.from,
        to: authorization.to,
        value: U256::from(authorization.value.get()),
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: authorization.nonce,
    }
}

/// The signature with `v` as token contracts expect it, or `None` if it is not valid. An `s` in the upper half would be
/// a second form of the same signature, which token contracts refuse.
pub(super) fn canonical(signature: &[u8; 65]) -> Option<[u8; 65]> {
    let mut canonical = *signature;
    canonical[64] = match signature[64] {
        v @ (27 | 28) => v,
        v @ (0 | 1) => v + 27,
        _ => return None,
    };
    let rs = Signature::from_slice(&signature[..64]).ok()?;
    (rs.normalize_s() == rs).then_some(canonical)
}

/// The signer of an authorization, recovered over the token's domain from our table; `signature` must be [`canonical`].
pub(super) fn signer_of(token: &Token, authorization: &Authorization, signature: &[u8; 65]) -> Option<Address> {
    let digest = message(authorization).eip712_signing_hash(&domain(token));
    let rs = Signature::from_slice(&signature[..64]).ok()?;
    let recovery = RecoveryId::new(signature[64] == 28, false);
    let key = VerifyingKey::recover_from_prehash(digest.as_slice(), &rs, recovery).ok()?;
    // Skips the first byte of the SEC1 point, which only marks it as uncompressed.
    let point = key.to_sec1_point(false);
    Some(Address::from_raw_public_key(point.as_bytes().get(1..)?))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::address;
    use secrecy::ExposeSecret;

    use super::*;

    /// The public first development key of anvil.
    const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn keys_are_read_with_and_without_prefix() {
        let expected = address!("0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266");
        for text in [KEY.to_owned(), format!("0x{KEY}"), format!(" 0x{KEY}\n")] {
            assert_eq!(Wallet::from_hex(&text).ok().unwrap().address(), expected);
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        for bad in ["", "0x", &KEY[1..], &format!("{KEY}00"), &format!("0x0x{}", &KEY[2..])] {
            assert!(matches!(Wallet::from_hex(bad), Err(WalletError::NotHex)), "{bad}");
        }
        let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        for bad in [&"0".repeat(64), order] {
            assert!(matches!(Wallet::from_hex(bad), Err(WalletError::NotAKey)), "{bad}");
        }
    }

    #[test]
    fn a_new_key_reads_back() {
        let (wallet, secret) = Wallet::generate().ok().unwrap();
        let again = Wallet::from_hex(secret.expose_secret()).ok().unwrap();
        assert_eq!(again.address(), wallet.address());
    }
}
