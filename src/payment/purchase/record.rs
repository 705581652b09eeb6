//! What is recorded before a signature exists: terms, charges, nonce, validity.

use alloy_primitives::B256;

use super::{NotBought, Purchase};
use crate::answer::{Code, Problem};
use crate::payment::consider::PurchasePlan;
use bursar_core::account::{Account, AccountMark};
use bursar_core::assets::Asset;
use bursar_core::challenge::{Nonce, Offer, Why};
use bursar_core::clock;
use bursar_core::money::MicroUsd;
use bursar_core::policy::Charge;
use bursar_ledger::{Arm, ArmedNonce, Hold, PaymentId, Reserve, Signer, Terms};
use bursar_net::upstream::{Origin, Scheme};

impl Purchase {
    pub(super) fn reserve(&self) -> Result<Reserve, NotBought> {
        let arm = self.arm()?;
        let hold = self.hold(self.plan.decided.charges.clone())?;
        Ok(Reserve { hold, arm })
    }

    pub(super) fn hold(&self, charges: Vec<Charge>) -> Result<Hold, NotBought> {
        let PurchasePlan {
            offer,
            decided,
            policy_gen,
            ..
        } = &self.plan;
        let now = self.buying().clock.now();
        let entropy = clock::random::<10>().map_err(|_| no_random_bytes())?;
        let origin = self.lane.origin();
        Ok(Hold {
            rid: PaymentId::new(now, entropy),
            agent: self.lane.agent().as_str().to_owned(),
            group: decided.group.as_deref().map(str::to_owned),
            host: origin.authority.host.as_str().to_owned(),
            origin: unusual_origin(origin),
            path: self.head.uri.path().to_owned(),
            query: self.head.uri.query().map(str::to_owned),
            terms: terms(offer, decided.usd),
            charges,
            policy_gen: *policy_gen,
            fingerprint: self.identity().1.bytes(),
            idempotency: self.claim.as_ref().map(|claim| claim.key().bytes()),
            offer_sha256: offer.sha256,
            others: self.plan.others(self.buying().ledger.now()),
        })
    }

    pub(super) fn arm(&self) -> Result<Arm, NotBought> {
        let (offer, payers) = (&self.plan.offer, &self.buying().payers);
        let (Some(from), Ok(nonce)) = (payers.account(offer.asset), nonce(offer)) else {
            return Err(no_random_bytes());
        };
        let by = By {
            from,
            issuer: payers.issuer_mark(offer.asset),
            signer: payers.remote_signer(offer.asset),
        };
        let now = clock::unix_second(self.buying().clock.now());
        arm(offer, self.plan.decided.max_validity_s, now, by, nonce).map_err(NotBought::OfferGone)
    }
}

/// Who pays.
struct By {
    from: Account,
    issuer: Option<AccountMark>,
    signer: Option<Signer>,
}

/// The challenge may have expired during an upload, or while waiting for a request under the same key.
fn arm(offer: &Offer, max_validity_s: u64, now: u64, by: By, nonce: B256) -> Result<Arm, Why> {
    let valid_before = offer.valid_before(now, max_validity_s).ok_or(Why::ChallengeExpired)?;
    Ok(Arm {
        from: by.from,
        issuer: by.issuer,
        nonce: match (by.signer, offer.asset) {
            // The remote signer chooses it. No placeholder is recorded until it is known.
            (Some(_), Asset::Token(_)) => ArmedNonce::Signers,
            _ => ArmedNonce::Known(nonce),
        },
        signer: by.signer,
        // 0 is safe even if our clock runs fast (R15).
        valid_after: 0,
        valid_before,
    })
}

pub(super) fn terms(offer: &Offer, usd: MicroUsd) -> Terms {
    Terms {
        rail: offer.rail,
        asset: offer.asset,
        amount: offer.amount,
        usd,
        payee: offer.payee.clone(),
        clause: offer.clause,
    }
}

/// `None` for `https://` with the usual port, which the host alone says (R267).
fn unusual_origin(origin: &Origin) -> Option<String> {
    let host = origin.host_field();
    let is_usual = origin.scheme == Scheme::Https && host == origin.authority.host.as_str();
    (!is_usual).then(|| format!("{}://{host}", origin.scheme.as_str()))
}

/// R18.
fn nonce(offer: &Offer) -> Result<B256, getrandom::Error> {
    match offer.nonce {
        Nonce::Random => clock::random::<32>().map(B256::from),
        Nonce::Fixed(nonce) => Ok(nonce),
    }
}

pub(super) fn no_random_bytes() -> NotBought {
    let detail = "The operating system gave no random bytes; nothing was paid.";
    Problem::new(Code::SigningFailed, detail).into()
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;

    use super::*;
    use bursar_core::assets::{Network, tokens_of};
    use bursar_core::challenge::Term;
    use bursar_core::money::Atoms;

    const NOW: u64 = 1_800_000_000;

    fn offer() -> Offer {
        let token = tokens_of(Network::Eip155(84_532)).next().unwrap();
        Offer::of(token, Atoms::new(10_000), Address::repeat_byte(1))
    }

    fn by(signer: Option<Signer>) -> By {
        By {
            from: Account::Address(Address::repeat_byte(2)),
            issuer: None,
            signer,
        }
    }

    #[test]
    fn an_arm_is_valid_from_the_beginning_of_time_and_for_as_long_as_both_sides_want() {
        let armed = arm(&offer(), 300, NOW, by(None), B256::repeat_byte(7)).unwrap();
        assert_eq!(
            (armed.valid_after, armed.nonce.known()),
            (0, Some(B256::repeat_byte(7)))
        );
        assert!(
            armed.valid_before > NOW + Term::LEAST_S && armed.valid_before <= NOW + 300,
            "{armed:?}"
        );
    }

    #[test]
    fn a_signer_of_its_own_chooses_the_nonce() {
        let armed = arm(&offer(), 300, NOW, by(Some(Signer::Bkey)), B256::repeat_byte(7)).unwrap();
        assert_eq!(armed.nonce.known(), None);
    }

    #[test]
    fn random_nonces_differ_and_fixed_ones_do_not() {
        let mut offer = offer();
        assert_ne!(nonce(&offer).unwrap(), nonce(&offer).unwrap());
        offer.nonce = Nonce::Fixed(B256::repeat_byte(3));
        assert_eq!(nonce(&offer).unwrap(), B256::repeat_byte(3));
    }

    #[test]
    fn the_terms_are_the_offers() {
        let offer = offer();
        let terms = terms(&offer, MicroUsd::new(10_000));
        assert_eq!(
            (terms.rail, terms.asset, terms.amount),
            (offer.rail, offer.asset, offer.amount)
        );
        assert_eq!((terms.payee, terms.usd), (offer.payee.clone(), MicroUsd::new(10_000)));
    }
}
