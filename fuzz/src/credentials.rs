//! The header that pays: assembled as text from what the seller sent and what was signed. However the seller wrote its
//! part, the whole is strict JSON, the seller's part comes back unchanged, and only ours is added.

use alloy_primitives::{Address, B256, U256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bursar_core::challenge::credential::{Credential, Payload, credential};
use bursar_core::challenge::permit2::{Permit2Transfer, Spender};
use bursar_core::challenge::{self, Authorization, Clause, Offer, Rail, json};
use http::HeaderName;
use serde_json::Value;

use crate::challenges::encoded;
use crate::opinion;

const ID: &str = "pay_7d5d747be160e280504c099d984bcfe0";
const FROM: Address = Address::repeat_byte(0x11);
const SIGNATURE: [u8; 65] = [0x5a; 65];

/// The `extensions` of a v2 challenge, given as JSON; the first byte chooses between a rail that adds a permit and one
/// that does not.
pub fn extensions(data: &[u8]) {
    let Some((first, extensions)) = data.split_first() else {
        return;
    };
    let Ok(extensions) = std::str::from_utf8(extensions) else {
        return;
    };
    let method = if first % 2 == 0 { "eip3009" } else { "permit2" };
    let challenge = format!(
        concat!(
            r#"{{"x402Version":2,"resource":{{"url":"/x"}},"extensions":{},"accepts":[{{"scheme":"exact","#,
            r#""network":"eip155:84532","amount":"10000","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","#,
            r#""payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","maxTimeoutSeconds":60,"#,
            r#""extra":{{"name":"USDC","version":"2","assetTransferMethod":"{}"}}}}]}}"#
        ),
        extensions, method
    );
    let Ok(read) = challenge::v2(encoded(challenge.as_bytes()).as_bytes()) else {
        return;
    };
    let value = opinion::value(challenge.as_bytes()).expect("what is read is strict JSON");
    for offer in &read.offers {
        repeats_the_rest(&repeat(offer), &value);
    }
}

/// A credential that comes back from `private/`: whatever was stored, the header can be sent, or nothing is.
pub fn stored(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(credential) = Credential::from_stored(text.to_owned()) else {
        return;
    };
    assert_eq!(credential.expose(), text);
    assert_eq!(credential.header_value().as_bytes(), data);
    assert!(credential.header_value().is_sensitive());
}

/// The credential of an offer, and the field that carries it. Whatever became an offer can be paid.
pub fn of(offer: &Offer, id: Option<&str>) -> (String, HeaderName) {
    let authorization;
    let transfer;
    let permit;
    let to = offer.payee.address();
    let payload = match offer.rail {
        Rail::X402 | Rail::MppEvm => {
            authorization = Authorization {
                network: offer.asset.network(),
                from: FROM,
                to: to.expect("a token goes to an address"),
                value: offer.amount,
                valid_after: 0,
                valid_before: u64::MAX,
                nonce: B256::repeat_byte(7),
            };
            Payload::Authorization {
                authorization: &authorization,
                signature: &SIGNATURE,
            }
        }
        Rail::X402Permit2 | Rail::X402UpTo => {
            let token = offer.asset.token().expect("a token");
            transfer = Permit2Transfer {
                chain_id: token.chain,
                token: token.address,
                amount: offer.amount,
                spender: match offer.clause {
                    Clause::Facilitator(facilitator) => Spender::Upto { facilitator },
                    _ => Spender::Exact,
                },
                from: FROM,
                nonce: B256::repeat_byte(7),
                deadline: u64::MAX,
                to: to.expect("a token goes to an address"),
                valid_after: 0,
            };
            permit = transfer.token_permit(U256::MAX);
            Payload::Permit2 {
                transfer: &transfer,
                signature: &SIGNATURE,
                permission: offer.echo.brings_permission().then_some((&permit, &SIGNATURE)),
            }
        }
        Rail::MppTempo => Payload::Transaction {
            from: FROM,
            network: offer.asset.network(),
            signed: "0x76",
        },
        Rail::MppStripe => Payload::SharedPaymentToken("spt_1"),
    };
    let (name, credential) = credential(&offer.echo, &payload, id).expect("an offer can be paid");
    (credential.expose().to_owned(), name)
}

/// The JSON of a credential for the offer. Whatever the seller wrote, it is strict JSON that names the rail's field.
pub fn repeat(offer: &Offer) -> String {
    let (header, name) = of(offer, Some(ID));
    let json = decoded(&header);
    json::checked(json.as_bytes()).expect("a credential is strict JSON");
    let value: Value = serde_json::from_str(&json).expect("JSON");
    assert!(value["payload"].is_object());
    match offer.rail.protocol() {
        challenge::Protocol::X402 => {
            let expected = if value["x402Version"] == 1 {
                "x-payment"
            } else {
                "payment-signature"
            };
            assert_eq!(name, expected);
        }
        challenge::Protocol::Mpp => {
            assert!(["authorization", "payment-authorization"].contains(&name.as_str()));
            // An independent server can read it.
            if let Ok(second) = mpp::protocol::core::parse_authorization(&header) {
                assert_eq!(second.challenge.id, opinion::text(&value, "/challenge/id"));
                assert_eq!(
                    second.challenge.request.raw(),
                    opinion::text(&value, "/challenge/request")
                );
            }
        }
    }
    json
}

/// The challenge that an MPP credential repeats.
pub fn challenge_in(header: &str) -> Value {
    let mut value: Value = serde_json::from_str(&decoded(header)).expect("JSON");
    value["challenge"].take()
}

/// A v2 credential has the seller's `resource` and `extensions`, and nothing in them but the payment id and the permit
/// is new.
pub fn repeats_the_rest(credential: &str, challenge: &Value) {
    let credential: Value = serde_json::from_str(credential).expect("JSON");
    let sent = |name: &str| challenge.get(name).filter(|member| !member.is_null());
    assert_eq!(credential.get("resource"), sent("resource"));
    let Some(extensions) = sent("extensions") else {
        assert_eq!(credential.get("extensions"), None);
        return;
    };
    let mut without_ours = credential["extensions"].clone();
    take(extensions, &mut without_ours, "payment-identifier", &["id"]);
    let signed = [
        "from",
        "asset",
        "spender",
        "amount",
        "nonce",
        "deadline",
        "signature",
        "version",
    ];
    take(extensions, &mut without_ours, "eip2612GasSponsoring", &signed);
    assert_eq!(&without_ours, extensions);
}

/// Removes members that the seller did not write from `info` of an extension.
fn take(sent: &Value, repeated: &mut Value, extension: &str, names: &[&str]) {
    let theirs = &sent[extension]["info"];
    let Some(info) = repeated
        .get_mut(extension)
        .and_then(|extension| extension.get_mut("info")?.as_object_mut())
    else {
        return;
    };
    for name in names {
        if theirs.get(name).is_none() {
            info.remove(*name);
        }
    }
}

/// A member of the credential, as its text.
pub fn member(credential: &str, name: &str) -> Option<String> {
    Some(json::Object::read(credential)?.member(name)?.get().to_owned())
}

fn decoded(header: &str) -> String {
    let bytes = match header.strip_prefix("Payment ") {
        Some(token) => URL_SAFE_NO_PAD.decode(token),
        None => STANDARD.decode(header),
    };
    String::from_utf8(bytes.expect("base64")).expect("UTF-8")
}
