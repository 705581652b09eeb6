//! The agent's side: creating, retrieving and revoking tokens.

use super::currencies;
use super::faults::Fault;
use super::form::Form;
use super::token::{Card, Revoked, Terms, Token};
use super::{Call, Outcome, State, StripeSandbox, random_id};

/// Stripe accepts at most eight digits.
const MOST: u64 = 99_999_999;
/// The longest lifetime of a token, in seconds: a year. Assumed.
const FURTHEST: u64 = 366 * 24 * 3600;
/// Stripe's limit on the number of metadata keys.
const MOST_METADATA: usize = 50;

/// The limits of both kinds of token.
struct Limits {
    currency: &'static str,
    max_amount: u64,
    expires_at: Option<u64>,
}

impl StripeSandbox {
    /// `POST /v1/shared_payment/issued_tokens`
    pub(super) fn issue(&self, state: &mut State, call: &Call<'_>) -> Outcome {
        let form = call.form;
        let payment_method = form.take("payment_method");
        let profile = form.take("seller_details[network_business_profile]");
        let external_id = form.take("seller_details[external_id]");
        let return_url = form.take("return_url");
        let future = form.take("setup_future_usage");
        let metadata = form.take_map("shared_metadata");
        let sdk = form.take("use_stripe_sdk");
        let limits = RawLimits::take(form);
        form.finish()?;

        let card = card(payment_method)?;
        let limits = limits.read(call.now)?;
        if profile.is_none() && external_id.is_none() {
            return Err(Fault::missing("seller_details"));
        }
        // Optional in the types, but required in practice (MPP §6.1).
        let profile = profile.ok_or_else(|| Fault::missing("seller_details[network_business_profile]"))?;
        let grantee = self.seller(profile).ok_or_else(|| {
            Fault::no_such(
                "seller_details[network_business_profile]",
                "network business profile",
                profile,
            )
        })?;
        let terms = Terms {
            issuer: Some(call.account),
            grantee,
            seller_profile: Some(profile.to_owned()),
            external_id: external_id.map(str::to_owned),
            card,
            currency: limits.currency,
            max_amount: limits.max_amount,
            expires_at: limits.expires_at,
            return_url: return_url.map(web_url).transpose()?,
            setup_future_usage: future.map(on_session).transpose()?,
            shared_metadata: bounded(metadata)?,
            use_stripe_sdk: sdk.map(|sdk| boolean("use_stripe_sdk", sdk)).transpose()?,
        };
        make(state, terms, call.now).map(|token| token.issued_json())
    }

    /// `POST /v1/test_helpers/shared_payment/granted_tokens`: as if another party had granted it to the caller's
    /// account.
    pub(super) fn grant(&self, state: &mut State, call: &Call<'_>) -> Outcome {
        let form = call.form;
        let payment_method = form.take("payment_method");
        let customer = form.take("customer");
        let metadata = form.take_map("shared_metadata");
        // Stripe's guide sends both, but its types have neither.
        let _ = (
            form.take("seller_details[network_id]"),
            form.take("seller_details[external_id]"),
        );
        let limits = RawLimits::take(form);
        form.finish()?;

        let card = card(payment_method)?;
        let limits = limits.read(call.now)?;
        if let Some(customer) = customer {
            return Err(Fault::no_such("customer", "customer", customer));
        }
        let terms = Terms {
            issuer: None,
            grantee: call.account,
            seller_profile: self.profile_of(call.account).map(str::to_owned),
            external_id: None,
            card,
            currency: limits.currency,
            max_amount: limits.max_amount,
            expires_at: limits.expires_at,
            return_url: None,
            setup_future_usage: None,
            shared_metadata: bounded(metadata)?,
            use_stripe_sdk: None,
        };
        make(state, terms, call.now).map(|token| token.granted_json())
    }
}

/// `GET /v1/shared_payment/issued_tokens/{id}`
pub(super) fn retrieve(state: &mut State, call: &Call<'_>, id: &str) -> Outcome {
    call.form.finish()?;
    let token = issued(state, call, id)?;
    token.see(call.now);
    Ok(token.issued_json())
}

/// `POST /v1/shared_payment/issued_tokens/{id}/revoke`
pub(super) fn revoke(state: &mut State, call: &Call<'_>, id: &str) -> Outcome {
    call.form.finish()?;
    let revoked = issued(state, call, id)?.revoke(call.now);
    count(state, revoked)?;
    Ok(issued(state, call, id)?.issued_json())
}

/// `GET /v1/shared_payment/granted_tokens/{id}`
pub(super) fn granted(state: &mut State, call: &Call<'_>, id: &str) -> Outcome {
    call.form.finish()?;
    let token = granted_to(state, call, id)?;
    token.see(call.now);
    Ok(token.granted_json())
}

/// `POST /v1/test_helpers/shared_payment/granted_tokens/{id}/revoke`
pub(super) fn revoke_granted(state: &mut State, call: &Call<'_>, id: &str) -> Outcome {
    call.form.finish()?;
    let revoked = granted_to(state, call, id)?.revoke(call.now);
    count(state, revoked)?;
    Ok(granted_to(state, call, id)?.granted_json())
}

fn make(state: &mut State, terms: Terms, now: u64) -> Result<&Token, Fault> {
    if terms.card == Card::ChargeDeclined {
        return Err(Fault::declined());
    }
    let id = random_id("spt_")?;
    state.counters.tokens_issued += 1;
    let token = Token::new(id.clone(), terms, now);
    Ok(state.tokens.entry(id).or_insert(token))
}

fn issued<'s>(state: &'s mut State, call: &Call<'_>, id: &str) -> Result<&'s mut Token, Fault> {
    let token = state
        .tokens
        .get_mut(id)
        .filter(|token| token.is_issued_by(call.account));
    token.ok_or_else(|| Fault::not_found("shared_payment.issued_token", id))
}

fn granted_to<'s>(state: &'s mut State, call: &Call<'_>, id: &str) -> Result<&'s mut Token, Fault> {
    let token = state
        .tokens
        .get_mut(id)
        .filter(|token| token.is_granted_to(call.account));
    token.ok_or_else(|| Fault::not_found("shared_payment.granted_token", id))
}

fn count(state: &mut State, revoked: Revoked) -> Result<(), Fault> {
    match revoked {
        Revoked::Now => state.counters.revocations += 1,
        Revoked::Before => {}
        // The code is assumed.
        Revoked::TooLate => {
            return Err(Fault::state(
                "shared_payment_token_consumed",
                "This token has been used and cannot be revoked.",
            ));
        }
    }
    Ok(())
}

fn card(payment_method: Option<&str>) -> Result<Card, Fault> {
    let name = payment_method.ok_or_else(|| Fault::missing("payment_method"))?;
    Card::named(name).ok_or_else(|| Fault::no_such("payment_method", "PaymentMethod", name))
}

/// The members of `usage_limits` as sent.
struct RawLimits<'f> {
    currency: Option<&'f str>,
    max_amount: Option<&'f str>,
    expires_at: Option<&'f str>,
}

impl<'f> RawLimits<'f> {
    fn take(form: &'f Form) -> Self {
        Self {
            currency: form.take("usage_limits[currency]"),
            max_amount: form.take("usage_limits[max_amount]"),
            expires_at: form.take("usage_limits[expires_at]"),
        }
    }

    fn read(&self, now: u64) -> Result<Limits, Fault> {
        if self.currency.is_none() && self.max_amount.is_none() && self.expires_at.is_none() {
            return Err(Fault::missing("usage_limits"));
        }
        let currency = currency("usage_limits[currency]", self.currency)?;
        let max_amount = amount("usage_limits[max_amount]", self.max_amount)?;
        let expires_at = match self.expires_at {
            None => None,
            Some(at) => Some(moment("usage_limits[expires_at]", at, now)?),
        };
        Ok(Limits {
            currency,
            max_amount,
            expires_at,
        })
    }
}

pub(super) fn currency(name: &str, text: Option<&str>) -> Result<&'static str, Fault> {
    let text = text.ok_or_else(|| Fault::missing(name))?;
    let unknown = || Fault::invalid(name, "parameter_invalid_string", "Invalid currency");
    currencies::known(text).ok_or_else(unknown)
}

/// Between one and eight digits.
pub(super) fn amount(name: &str, text: Option<&str>) -> Result<u64, Fault> {
    match integer(name, text.ok_or_else(|| Fault::missing(name))?)? {
        0 => Err(Fault::invalid(name, "parameter_invalid_integer", "Must be at least 1")),
        amount if amount > MOST => Err(Fault::invalid(name, "amount_too_large", "Must be at most 99999999")),
        amount => Ok(amount),
    }
}

fn moment(name: &str, text: &str, now: u64) -> Result<u64, Fault> {
    let at = integer(name, text)?;
    // The code is assumed.
    let invalid = |message| Fault::invalid(name, "parameter_invalid_integer", message);
    if at <= now {
        return Err(invalid("The expiry time must be in the future"));
    }
    if at - now > FURTHEST {
        return Err(invalid("The expiry time is too far in the future"));
    }
    Ok(at)
}

fn integer(name: &str, text: &str) -> Result<u64, Fault> {
    let invalid = || Fault::invalid(name, "parameter_invalid_integer", "Invalid integer");
    // `parse` would take a sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    text.parse().map_err(|_| invalid())
}

pub(super) fn boolean(name: &str, text: &str) -> Result<bool, Fault> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Fault::invalid(name, "parameter_invalid_string", "Invalid boolean")),
    }
}

fn on_session(text: &str) -> Result<&'static str, Fault> {
    let name = "setup_future_usage";
    match text {
        "on_session" => Ok("on_session"),
        _ => Err(Fault::invalid(name, "parameter_invalid_string", "Must be on_session")),
    }
}

fn web_url(text: &str) -> Result<String, Fault> {
    let is_web = text
        .parse::<::http::Uri>()
        .is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some());
    match is_web {
        true => Ok(text.to_owned()),
        false => Err(Fault::invalid("return_url", "url_invalid", "Not a valid URL")),
    }
}

/// Stripe's limits on metadata: 50 keys of 40 characters, values of 500.
pub(super) fn bounded(
    metadata: serde_json::Map<String, serde_json::Value>,
) -> Result<serde_json::Map<String, serde_json::Value>, Fault> {
    let fits = metadata.len() <= MOST_METADATA
        && metadata.iter().all(|(key, value)| {
            key.chars().count() <= 40 && value.as_str().is_some_and(|text| text.chars().count() <= 500)
        });
    match fits {
        true => Ok(metadata),
        false => Err(Fault::invalid(
            "metadata",
            "parameter_invalid_string",
            "Metadata may have 50 keys of 40 characters, with values of 500",
        )),
    }
}
