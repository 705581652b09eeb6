//! Identifiers that appear in a request. Each has its alphabet and its length, so none can smuggle anything in.

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

/// Longest accepted identifier, prefix included. Stripe promises at most 255 characters.
const LONGEST: usize = 255;

/// A seller: the profile that a token is issued to. It comes from a challenge, so it may be anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Profile(String);

/// The payment method of the operator's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentMethod(String);

/// A shared payment token. Anyone who holds it may charge it, so it has no `Debug` and no `Display`, and is wiped when
/// dropped.
#[derive(Clone)]
pub struct TokenId(Zeroizing<String>);

/// ISO 4217, in lower case as Stripe writes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency([u8; 3]);

/// The messages never quote the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    #[error("not a Stripe profile: one starts with profile_, then letters, digits or _, at most 255 characters")]
    Profile,
    #[error("not a Stripe payment method: one starts with pm_, then letters, digits or _, at most 255 characters")]
    PaymentMethod,
    #[error("not a shared payment token: one starts with spt_, then letters, digits or _, at most 255 characters")]
    Token,
    #[error("not a currency: one has three lower-case letters")]
    Currency,
}

impl Profile {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match is_name(text, "profile_") {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::Profile),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PaymentMethod {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match is_name(text, "pm_") {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::PaymentMethod),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TokenId {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match is_name(text, "spt_") {
            true => Ok(Self(Zeroizing::new(text.to_owned()))),
            false => Err(NameError::Token),
        }
    }

    /// The secret itself, for a credential and for storing it until it is presented again (R7).
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for TokenId {
    fn eq(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for TokenId {}

impl Currency {
    pub const USD: Self = Self(*b"usd");

    pub fn parse(text: &str) -> Result<Self, NameError> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(letters) if letters.iter().all(u8::is_ascii_lowercase) => Ok(Self(letters)),
            _ => Err(NameError::Currency),
        }
    }

    pub fn as_str(&self) -> &str {
        // Three ASCII letters by construction.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|rest| is_word(rest, LONGEST - prefix.len()))
}

/// Letters, digits and `_`, which pass through a path, a form and a header field unchanged.
pub(super) fn is_word(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_prefix_alphabet_and_length() {
        let longest = format!("profile_{}", "a".repeat(247));
        for good in ["profile_lab_seller", "profile_test_61U92KWAstyE3VYhXA6", &longest] {
            assert_eq!(Profile::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "profile_",
            "profile-x",
            "Profile_x",
            "acct_x",
            "profile_a b",
            "profile_a&usage_limits[max_amount]=999",
            "profile_a/../b",
            "profile_a\n",
            "profile_é",
            &format!("{longest}a"),
        ] {
            assert_eq!(Profile::parse(bad), Err(NameError::Profile), "{bad:?}");
        }
        assert!(PaymentMethod::parse("pm_card_visa").is_ok());
        assert!(PaymentMethod::parse("card_visa").is_err());
        assert!(TokenId::parse("spt_1RgaZcFPC5QUO6ZCDVZuVA8q").is_ok());
        for bad in ["spt_", "spt_a/revoke", "spt_..", "spt_a?expand[]=x", "pi_a"] {
            assert!(TokenId::parse(bad).is_err(), "{bad}");
        }
        assert!(TokenId::parse("spt_a").ok() == TokenId::parse("spt_a").ok());
        assert!(TokenId::parse("spt_a").ok() != TokenId::parse("spt_b").ok());
    }

    #[test]
    fn a_currency_is_three_lower_case_letters() {
        assert_eq!(Currency::parse("usd"), Ok(Currency::USD));
        for bad in ["", "us", "usdc", "USD", "u$d", "us ", "é1"] {
            assert_eq!(Currency::parse(bad), Err(NameError::Currency), "{bad:?}");
        }
    }
}
