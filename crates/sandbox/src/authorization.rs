//! What the sandbox token's payers sign: EIP-3009 authorizations as EIP-712 typed data (x402 §4.1).

use alloy_primitives::{Address, B256, TxHash, U256, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain, sol};
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};

use super::usdc::{CHAIN_ID, CONTRACT, NAME, VERSION};
use bursar_core::money::Atoms;

/// What a payer signs: one transfer, valid once and for a limited time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorization {
    pub from: Address,
    pub to: Address,
    pub value: Atoms,
    /// Unix seconds; the transfer is valid only after this time.
    pub valid_after: u64,
    /// Unix seconds; the transfer is valid only before this time.
    pub valid_before: u64,
    pub nonce: B256,
}

/// 65 bytes: r, s, and 27 or 28.
pub type SignatureBytes = [u8; 65];

impl Authorization {
    /// The hash that is signed: `keccak256(0x1901 || domain separator || struct hash)`.
    pub fn digest(&self) -> B256 {
        self.typed().eip712_signing_hash(&domain())
    }

    /// The address whose key made the signature. `None` if USDC's contract would not accept the signature: `v` other
    /// than 27 or 28, or `s` in the upper half (a second, equally valid form of the same signature).
    pub fn signer(&self, signature: &SignatureBytes) -> Option<Address> {
        let odd = match signature[64] {
            27 => false,
            28 => true,
            _ => return None,
        };
        let rs = Signature::from_slice(&signature[..64]).ok()?;
        if rs.normalize_s() != rs {
            return None;
        }
        let recovery = RecoveryId::new(odd, false);
        let key = VerifyingKey::recover_from_prehash(&self.digest()[..], &rs, recovery).ok()?;
        // A SEC1 point without its first byte, which only marks it as uncompressed.
        let point = key.to_sec1_point(false);
        Some(Address::from_raw_public_key(point.as_bytes().get(1..)?))
    }

    /// Takes the place of a transaction hash: the same authorization and signature always give the same value.
    pub fn transaction(&self, signature: &SignatureBytes) -> TxHash {
        let mut contents = domain().hash_struct().to_vec();
        contents.extend_from_slice(&self.typed().abi_encode());
        contents.extend_from_slice(signature);
        keccak256(contents)
    }

    fn typed(&self) -> TransferWithAuthorization {
        TransferWithAuthorization {
            from: self.from,
            to: self.to,
            value: U256::from(self.value.get()),
            validAfter: U256::from(self.valid_after),
            validBefore: U256::from(self.valid_before),
            nonce: self.nonce,
        }
    }
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

fn domain() -> Eip712Domain {
    eip712_domain! {
        name: NAME,
        version: VERSION,
        chain_id: CHAIN_ID,
        verifying_contract: CONTRACT,
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{address, b256, hex};

    use super::*;
    use crate::tests::payer::Payer;

    /// Vector v2-exact-eip3009-base-sepolia, as the reference client signed it.
    const AUTHORIZATION: Authorization = Authorization {
        from: address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
        to: address!("0x209693Bc6afc0C5328bA36FaF03C514EF312287C"),
        value: Atoms::new(10_000),
        valid_after: 0,
        valid_before: 1_760_000_060,
        nonce: b256!("0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480"),
    };
    const SIGNATURE: SignatureBytes = hex!(
        "6a57865bee3f7d7e56be0c830a9dedf7bf9551c4124202b4a7bc825aebe23fff"
        "2dd14cfb55cb75298250ce139f3ecc01dc05795e48ec79faa6b863641f5b866b1b"
    );

    #[test]
    fn the_reference_clients_signature_is_understood() {
        assert_eq!(
            AUTHORIZATION.digest(),
            b256!("0x1973708fbbff49ea57ca3dafffe6d32f7e0d94cb3e8051fc4000ab46bf9f4d70")
        );
        assert_eq!(
            domain().hash_struct(),
            b256!("0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818")
        );
        assert_eq!(AUTHORIZATION.signer(&SIGNATURE), Some(AUTHORIZATION.from));
    }

    #[test]
    fn every_field_is_under_the_signature() {
        let signed = AUTHORIZATION;
        for altered in [
            Authorization {
                from: signed.to,
                ..signed
            },
            Authorization {
                to: signed.from,
                ..signed
            },
            Authorization {
                value: Atoms::new(9_999),
                ..signed
            },
            Authorization {
                valid_after: 1,
                ..signed
            },
            Authorization {
                valid_before: signed.valid_before + 1,
                ..signed
            },
            Authorization {
                nonce: B256::ZERO,
                ..signed
            },
        ] {
            assert_ne!(altered.signer(&SIGNATURE), Some(signed.from), "{altered:?}");
            assert_ne!(altered.transaction(&SIGNATURE), signed.transaction(&SIGNATURE));
        }
    }

    #[test]
    fn only_the_canonical_form_of_a_signature_is_taken() {
        let payer = Payer::named("canonical");
        let authorization = Authorization {
            from: payer.address(),
            ..AUTHORIZATION
        };
        let signature = payer.sign(&authorization);
        assert_eq!(authorization.signer(&signature), Some(payer.address()));

        let rs = Signature::from_slice(&signature[..64]).unwrap();
        let high = Signature::from_scalars(rs.r().to_bytes(), (-*rs.s()).to_bytes()).unwrap();
        let mut twin = [0; 65];
        twin[..64].copy_from_slice(&high.to_bytes());
        twin[64] = 55 - signature[64];
        let mut raw_parity = signature;
        raw_parity[64] -= 27;
        for refused in [twin, raw_parity, [0; 65], [0xff; 65]] {
            assert_eq!(authorization.signer(&refused), None);
        }
    }
}
