//! The seller's side: a payment intent, created and confirmed with a token in one call, as MPP sellers do.

use serde_json::{Map, Value, json};

use super::faults::Fault;
use super::issuing::{amount, boolean, bounded, currency};
use super::token::{NoCharge, Reason};
use super::{Api, Call, Outcome, State, currencies, random_id};

const TOKEN: &str = "shared_payment_granted_token";
/// Where Stripe's newer documentation puts it.
const NESTED_TOKEN: &str = "payment_method_data[shared_payment_granted_token]";

struct Intent<'a> {
    amount: u64,
    currency: &'static str,
    created: u64,
    description: Option<&'a str>,
    receipt_email: Option<&'a str>,
    redirects: &'a str,
    metadata: Map<String, Value>,
}

/// `POST /v1/payment_intents`
pub(super) fn charge(state: &mut State, call: &Call<'_>, api: Api) -> Outcome {
    let form = call.form;
    let wanted = (form.take("amount"), form.take("currency"));
    let confirm = form.take("confirm");
    let enabled = form.take("automatic_payment_methods[enabled]");
    let redirects = form.take("automatic_payment_methods[allow_redirects]");
    let description = form.take("description");
    let receipt_email = form.take("receipt_email");
    let metadata = form.take_map("metadata");
    let token = match api {
        Api::Preview => (form.take(TOKEN), form.take(NESTED_TOKEN)),
        Api::Released => (None, None),
    };
    form.finish()?;

    let amount = amount("amount", wanted.0)?;
    let currency = currency("currency", wanted.1)?;
    if amount < currencies::least(currency) {
        return Err(Fault::invalid(
            "amount",
            "amount_too_small",
            "The amount is below the minimum for cards",
        ));
    }
    // Stripe would keep an unconfirmed intent, but MPP sellers do not create any.
    if !boolean("confirm", confirm.ok_or_else(|| Fault::missing("confirm"))?)? {
        return Err(Fault::invalid(
            "confirm",
            "parameter_invalid_string",
            "The sandbox accepts only true",
        ));
    }
    if let Some(enabled) = enabled {
        boolean("automatic_payment_methods[enabled]", enabled)?;
    }
    let redirects = redirects.unwrap_or("always");
    if !matches!(redirects, "always" | "never") {
        let name = "automatic_payment_methods[allow_redirects]";
        return Err(Fault::invalid(
            name,
            "parameter_invalid_string",
            "Must be always or never",
        ));
    }
    let (name, id) = match token {
        (Some(id), None) => (TOKEN, id),
        (None, Some(id)) => (NESTED_TOKEN, id),
        (None, None) => return Err(Fault::missing(TOKEN)),
        (Some(_), Some(_)) => return Err(Fault::twice(TOKEN)),
    };
    let intent = Intent {
        amount,
        currency,
        created: call.now,
        description,
        receipt_email,
        redirects,
        metadata: bounded(metadata)?,
    };
    // A token for another seller does not exist for this one.
    let token = state
        .tokens
        .get_mut(id)
        .filter(|token| token.is_granted_to(call.account));
    let token = token.ok_or_else(|| Fault::no_such(name, "shared_payment.granted_token", id))?;
    let intent_id = random_id("pi_")?;
    match token.charge(amount, currency, call.now) {
        Ok(()) => {
            state.counters.intents_succeeded += 1;
            state.counters.captured.insert(id.to_owned(), amount);
            Ok(intent.json(&intent_id, "succeeded", amount))
        }
        Err(NoCharge::Card) => Err(Fault::declined_with(intent.json(
            &intent_id,
            "requires_payment_method",
            0,
        ))),
        Err(refused) => Err(no_charge(name, refused)),
    }
}

/// The codes are assumed: Stripe does not document them.
fn no_charge(name: &str, why: NoCharge) -> Fault {
    let (code, message) = match why {
        NoCharge::RequiresAction => (
            "shared_payment_token_requires_action",
            "The token's holder must confirm it first",
        ),
        NoCharge::Deactivated(Reason::Consumed) => ("shared_payment_token_consumed", "The token was used"),
        NoCharge::Deactivated(Reason::Expired) => ("shared_payment_token_expired", "The token has expired"),
        NoCharge::Deactivated(Reason::Revoked) => ("shared_payment_token_revoked", "The token was revoked"),
        NoCharge::Currency => (
            "shared_payment_token_currency_mismatch",
            "The token is for another currency",
        ),
        NoCharge::Amount | NoCharge::Card => (
            "shared_payment_token_amount_exceeded",
            "The amount exceeds the token's maximum",
        ),
    };
    Fault::invalid(name, code, message)
}

impl Intent<'_> {
    fn json(&self, id: &str, status: &str, received: u64) -> Value {
        json!({
            "id": id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": 0,
            "amount_received": received,
            "automatic_payment_methods": { "allow_redirects": self.redirects, "enabled": true },
            "canceled_at": null,
            "cancellation_reason": null,
            "capture_method": "automatic",
            "client_secret": null,
            "confirmation_method": "automatic",
            "created": self.created,
            "currency": self.currency,
            "customer": null,
            "description": self.description,
            "last_payment_error": null,
            "livemode": false,
            "metadata": self.metadata,
            "next_action": null,
            "payment_method_types": ["card"],
            "receipt_email": self.receipt_email,
            "status": status,
        })
    }
}
