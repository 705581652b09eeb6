//! JSON-RPC answers, read strictly: numbers must fit, words must have their length, nothing is guessed.

use std::borrow::Cow;

use alloy_primitives::{Address, B256, Bloom, Bytes, FixedBytes, U256, hex};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::value::RawValue;

/// The EVM's own limit (LOG4).
const MOST_TOPICS: usize = 4;

#[derive(Deserialize)]
pub(super) struct Reply<'a> {
    /// Tells `null`, which is an answer, from a missing member, which is not.
    #[serde(borrow, default, deserialize_with = "present")]
    pub result: Option<&'a RawValue>,
    pub error: Option<Refusal>,
}

#[derive(Deserialize)]
pub(super) struct Refusal {
    pub code: i64,
    pub message: String,
}

/// A number as hexadecimal text. Nodes write it with and without leading zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quantity(pub u64);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        quantity(deserializer).map(Self)
    }
}

/// Twenty bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account(pub Address);

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        address(deserializer).map(Self)
    }
}

/// A word of the EVM, or what a call returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Data(pub Bytes);

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        data(deserializer).map(Self)
    }
}

pub(super) fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = hexadecimal(deserializer)?;
    let digits = digits(&text)?;
    if digits.is_empty() || digits.len() > 64 {
        return Err(Error::custom("not a number of 256 bits"));
    }
    let number = U256::from_str_radix(digits, 16).map_err(Error::custom)?;
    number
        .try_into()
        .map_err(|_| Error::custom("the number is out of range"))
}

pub(super) fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<B256, D::Error> {
    fixed(&hexadecimal(deserializer)?)
}

pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
    fixed(&hexadecimal(deserializer)?).map(Address)
}

pub(super) fn bloom<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bloom, D::Error> {
    fixed(&hexadecimal(deserializer)?).map(Bloom)
}

pub(super) fn data<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = hexadecimal(deserializer)?;
    hex::decode(digits(&text)?).map(Bytes::from).map_err(Error::custom)
}

pub(super) fn topics<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<B256>, D::Error> {
    let texts = Vec::<Cow<str>>::deserialize(deserializer)?;
    if texts.len() > MOST_TOPICS {
        return Err(Error::custom("a log has at most four topics"));
    }
    texts.iter().map(|text| fixed(text)).collect()
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn hexadecimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'de, str>, D::Error> {
    Cow::deserialize(deserializer)
}

fn fixed<const N: usize, E: Error>(text: &str) -> Result<FixedBytes<N>, E> {
    let mut bytes = FixedBytes::ZERO;
    hex::decode_to_slice(digits(text)?, bytes.as_mut_slice()).map_err(E::custom)?;
    Ok(bytes)
}

/// The text after `0x`. A second prefix, which the decoder would also strip, is not a digit.
fn digits<E: Error>(text: &str) -> Result<&str, E> {
    let digits = text
        .strip_prefix("0x")
        .ok_or_else(|| E::custom("hexadecimal text begins with 0x"))?;
    match digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        true => Ok(digits),
        false => Err(E::custom("not hexadecimal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_64_bits_or_are_refused() {
        let read = |text: &str| {
            serde_json::from_str::<Quantity>(&format!("\"{text}\""))
                .ok()
                .map(|q| q.0)
        };
        assert_eq!(read("0x0"), Some(0));
        assert_eq!(read("0x00ff"), Some(255));
        assert_eq!(read("0xffffffffffffffff"), Some(u64::MAX));
        for bad in [
            "",
            "0x",
            "ff",
            "0X1",
            "0x-1",
            "0x+1",
            "0x 1",
            "0x1_0",
            "0x0x1",
            "0x10000000000000000",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert!(serde_json::from_str::<Quantity>("1").is_err());
        assert!(serde_json::from_str::<Quantity>("1e400").is_err());
    }

    #[test]
    fn words_have_their_length() {
        #[derive(Debug, Deserialize)]
        struct Word(#[serde(deserialize_with = "word")] B256);
        let read = |text: String| serde_json::from_str::<Word>(&format!("\"{text}\"")).map(|word| word.0);
        assert_eq!(read(format!("0x{:064x}", 7)).unwrap(), B256::with_last_byte(7));
        assert!(read(format!("{:064x}", 7)).is_err());
        assert!(read(format!("0x{:062x}", 7)).is_err());
        assert!(read(format!("0x{:066x}", 7)).is_err());
        assert!(read(format!("0x0x{:062x}", 7)).is_err());
        assert!(serde_json::from_str::<Word>(&format!("{:?}", [0u8; 32])).is_err());
        assert!(serde_json::from_str::<Data>("\"0xabc\"").is_err());
        assert_eq!(serde_json::from_str::<Data>("\"0x\"").unwrap().0.len(), 0);
    }
}
