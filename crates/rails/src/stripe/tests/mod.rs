//! The client over real sockets: against the sandbox, which shares no code with it, and against faulty services.

mod answers;
mod sandbox;
mod silence;

use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use bursar_net::tls::upstream::Trust;

const NOW: i64 = 1_790_000_000;
const EXPIRES: u64 = 1_790_000_300;
const KEY: &str = "sk_test_agent4eC39HqLyjWDarjtT1";
const SELLER_KEY: &str = "sk_test_seller7Yh2";

fn tls() -> Arc<UpstreamTls> {
    Arc::new(UpstreamTls::new(&Trust::default(), Duration::from_secs(10)).unwrap())
}

fn client(base: &str) -> Stripe {
    client_with(KEY, base, Endpoint::Issued)
}

fn client_with(key: &str, base: &str, endpoint: Endpoint) -> Stripe {
    let settings = Settings {
        base: ApiBase::parse(base).unwrap(),
        endpoint,
        ..Settings::default()
    };
    Stripe::new(SecretKey::parse(key).ok().unwrap(), settings, tls())
        .ok()
        .unwrap()
}

struct Purchase {
    payment: PaymentId,
    card: PaymentMethod,
    seller: Profile,
}

impl Purchase {
    fn with(card: &str) -> Self {
        Self {
            payment: PaymentId::new(Timestamp::from_second(NOW).unwrap(), [7; 10]),
            card: PaymentMethod::parse(card).unwrap(),
            seller: Profile::parse("profile_lab_seller").unwrap(),
        }
    }

    fn order(&self) -> Order<'_> {
        Order {
            idempotency_key: self.payment,
            payment_method: &self.card,
            currency: Currency::USD,
            max_amount: 100,
            expires_at: EXPIRES,
            seller: &self.seller,
        }
    }
}
