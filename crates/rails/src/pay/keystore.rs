//! Keystore files as geth, foundry and other wallets write them: Web3 Secret Storage version 3 with scrypt and
//! AES-128-CTR.

use aes::Aes128;
use aes::cipher::{KeyIvInit, StreamCipher};
use alloy_primitives::{Address, hex, keccak256};
use ctr::Ctr128BE;
use serde::Deserialize;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

/// scrypt uses 128 * n * r bytes. 512 MiB is twice what geth asks for; no wallet writes a file that needs more.
const MAX_SCRYPT_BYTES: u64 = 512 * 1024 * 1024;
/// Limit on the work over all lanes, in the same unit.
const MAX_SCRYPT_WORK: u64 = 4 * MAX_SCRYPT_BYTES;

/// Why a keystore did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeystoreError {
    #[error("it is not a version 3 keystore file")]
    NotAKeystore,
    #[error("its version is not 3")]
    Version,
    #[error("its cipher is not aes-128-ctr")]
    Cipher,
    #[error("its key derivation is not scrypt")]
    Kdf,
    #[error("its scrypt parameters are invalid or ask for more than 512 MiB")]
    ScryptParameters,
    #[error("the password is wrong, or the file is damaged")]
    WrongPassword,
}

/// A keystore that opened: the key, and the address the file names, if it names one.
pub(super) struct Opened {
    pub secret: Zeroizing<[u8; 32]>,
    pub address: Option<Address>,
}

#[derive(Deserialize)]
struct File {
    version: u32,
    /// With or without `0x`. Some wallets leave it out for privacy.
    address: Option<String>,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    ciphertext: String,
    cipherparams: CipherParams,
    kdf: String,
    kdfparams: serde_json::Value,
    mac: String,
}

#[derive(Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize)]
struct Scrypt {
    dklen: u32,
    n: u64,
    r: u32,
    p: u32,
    salt: String,
}

/// Derives the key from `password`, checks the file's MAC and decrypts.
pub(super) fn open(json: &str, password: &str) -> Result<Opened, KeystoreError> {
    let file: File = serde_json::from_str(json).map_err(|_| KeystoreError::NotAKeystore)?;
    if file.version != 3 {
        return Err(KeystoreError::Version);
    }
    let crypto = file.crypto;
    if crypto.cipher != "aes-128-ctr" {
        return Err(KeystoreError::Cipher);
    }
    if crypto.kdf != "scrypt" {
        return Err(KeystoreError::Kdf);
    }
    let mut secret = Zeroizing::new(bytes::<32>(&crypto.ciphertext)?);
    let iv = bytes::<16>(&crypto.cipherparams.iv)?;
    let mac = bytes::<32>(&crypto.mac)?;
    let address = match file.address.as_deref() {
        None | Some("") => None,
        Some(text) => Some(bytes::<20>(text)?.into()),
    };
    let kdf: Scrypt = serde_json::from_value(crypto.kdfparams).map_err(|_| KeystoreError::ScryptParameters)?;

    let derived = derive(&kdf, password)?;
    let (encryption_key, mac_key) = derived.split_at(16);
    let expected = keccak256(Zeroizing::new([mac_key, secret.as_slice()].concat()));
    // In constant time: the comparison must not reveal how close a guess was.
    if !bool::from(expected.as_slice().ct_eq(&mac)) {
        return Err(KeystoreError::WrongPassword);
    }
    Ctr128BE::<Aes128>::new_from_slices(encryption_key, &iv)
        .map_err(|_| KeystoreError::NotAKeystore)?
        .apply_keystream(secret.as_mut_slice());
    Ok(Opened { secret, address })
}

fn derive(kdf: &Scrypt, password: &str) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let Scrypt { dklen, n, r, p, .. } = *kdf;
    let memory = n
        .checked_mul(u64::from(r))
        .and_then(|blocks| blocks.checked_mul(128))
        .ok_or(KeystoreError::ScryptParameters)?;
    let work = memory.saturating_mul(u64::from(p));
    let sound = dklen == 32 && n.is_power_of_two() && n > 1;
    if !sound || memory > MAX_SCRYPT_BYTES || work > MAX_SCRYPT_WORK {
        return Err(KeystoreError::ScryptParameters);
    }
    let log_n = u8::try_from(n.ilog2()).map_err(|_| KeystoreError::ScryptParameters)?;
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| KeystoreError::ScryptParameters)?;
    let salt = hex::decode(&kdf.salt).map_err(|_| KeystoreError::NotAKeystore)?;
    let mut derived = Zeroizing::new([0; 32]);
    scrypt::scrypt(password.as_bytes(), &salt, &params, derived.as_mut_slice())
        .map_err(|_| KeystoreError::ScryptParameters)?;
    Ok(derived)
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], KeystoreError> {
    hex::decode_to_array(text).map_err(|_| KeystoreError::NotAKeystore)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scrypt example of the Web3 Secret Storage definition; its password is "testpassword".
    const EXAMPLE: &str = r#"{
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32, "n": 262144, "p": 8, "r": 1,
                "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"
            },
            "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3
    }"#;

    #[test]
    fn the_published_example_opens() {
        let opened = open(EXAMPLE, "testpassword").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            hex::encode(opened.secret.as_slice()),
            "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
        );
        assert_eq!(opened.address, None);
    }

    /// Written by the Python package eth-keyfile 0.10.0, for anvil's public first development key.
    const SMALL: &str = r#"{
        "address": "f39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "4be5e828af46c3a9a7ccfc0ad814cbf7"},
            "ciphertext": "ef0743b6f1f5472c5e1929bcfec19f78f10552d16ea6ee62e373a03982619e06",
            "kdf": "scrypt",
            "kdfparams": {"dklen": 32, "n": 16, "r": 8, "p": 1, "salt": "3f723cedef52f9f7bbaf6af9b1367885"},
            "mac": "10227ca506e100acc83684916d1926a60123ff3ae35161a933bf109a97b4704e"
        },
        "id": "c68e8817-cdd1-45b4-a52c-c21295cb82ba",
        "version": 3
    }"#;
    const PASSWORD: &str = "correct horse \u{2713}";

    fn error(json: &str, password: &str) -> Option<KeystoreError> {
        open(json, password).err()
    }

    #[test]
    fn a_file_of_another_wallet_opens() {
        let named = hex::decode_to_array("f39fd6e51aad88f6f4ce6ab8827279cfffb92266").unwrap();
        for json in [SMALL, &SMALL.replace("\"crypto\"", "\"Crypto\"")] {
            let opened = open(json, PASSWORD).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(opened.address, Some(Address::new(named)));
            assert_eq!(
                hex::encode(opened.secret.as_slice()),
                "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
            );
        }
    }

    #[test]
    fn a_wrong_password_and_a_damaged_file_look_alike() {
        assert_eq!(error(SMALL, "correct horse"), Some(KeystoreError::WrongPassword));
        for (good, bad) in [("ef0743", "ef0744"), ("10227c", "10227d"), ("3f723c", "3f723d")] {
            let damaged = SMALL.replace(good, bad);
            assert_eq!(error(&damaged, PASSWORD), Some(KeystoreError::WrongPassword), "{good}");
        }
    }

    #[test]
    fn what_we_cannot_open_is_named() {
        for (good, bad, expected) in [
            ("\"version\": 3", "\"version\": 4", KeystoreError::Version),
            ("aes-128-ctr", "aes-128-cbc", KeystoreError::Cipher),
            ("\"scrypt\"", "\"pbkdf2\"", KeystoreError::Kdf),
            ("\"n\": 16", "\"n\": 17", KeystoreError::ScryptParameters),
            ("\"n\": 16", "\"n\": 0", KeystoreError::ScryptParameters),
            ("\"n\": 16", "\"n\": 1048576", KeystoreError::ScryptParameters),
            ("\"p\": 1", "\"p\": 4294967295", KeystoreError::ScryptParameters),
            ("\"r\": 8", "\"r\": 0", KeystoreError::ScryptParameters),
            ("\"dklen\": 32", "\"dklen\": 16", KeystoreError::ScryptParameters),
            ("4be5e828", "4be5e8", KeystoreError::NotAKeystore),
            ("{", "[", KeystoreError::NotAKeystore),
        ] {
            assert_eq!(error(&SMALL.replace(good, bad), PASSWORD), Some(expected), "{bad}");
        }
    }
}
