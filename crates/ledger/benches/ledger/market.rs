//! Purchases for a ledger: limits as finance writes them, an offer as a seller makes it, and the resulting reservation.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use bursar_config as config;
use bursar_core::challenge::{self, Offer};
use bursar_core::clock::random;
use bursar_core::policy::{Approvals, Decision, Limits, Purchase, decide};
use bursar_home::{Readers, write_new};
use bursar_ledger::{Arm, Hold, PaymentId, Reserve, Terms};
use http::Method;
use jiff::Timestamp;

use crate::Fault;

/// A 402 from the specification's vectors: one cent of USDC on Base Sepolia.
const CHALLENGE: &str = include_str!("../../../../fixtures/x402/v2-exact-eip3009-base-sepolia.json");

/// The four windows that each payment is charged to; in total at most [`NEVER`].
const FOUR: &str = "hour = \"1000000\"\nday = \"1000000\"\nweek = \"9000000\"\nmonth = \"90000000\"\n";
/// A limit, in dollars, that no load reaches.
const NEVER: u64 = 900_000_000;

pub(crate) struct Market {
    limits: Arc<Limits>,
    offers: Vec<Offer>,
}

impl Market {
    /// `agents` agents with five budgets each.
    pub(crate) fn of(agents: usize) -> Result<Self, Fault> {
        Self::within(agents, NEVER)
    }

    /// Like [`Market::of`], with a total of `dollars` for each agent: a hundred payments per dollar.
    pub(crate) fn within(agents: usize, dollars: u64) -> Result<Self, Fault> {
        let limits =
            config::limits::parse("limits.toml", &limits(agents, dollars)?).map_err(|error| error.to_string())?;
        Ok(Self {
            limits: Arc::new(limits),
            offers: offers()?,
        })
    }

    /// Like [`Market::of`], from the file in `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self, Fault> {
        let path = dir.join("limits.toml");
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let limits = config::limits::parse(&path.display().to_string(), &text).map_err(|error| error.to_string())?;
        Ok(Self {
            limits: Arc::new(limits),
            offers: offers()?,
        })
    }

    /// Decides a purchase, and returns what the ledger is asked to reserve.
    pub(crate) fn purchase(&self, agent: usize, now: Timestamp) -> Result<Reserve, Fault> {
        let agent = name(agent);
        let purchase = Purchase {
            agent: &agent,
            merchant: "api.example.com",
            method: &Method::GET,
            now,
            approvals: Approvals::None,
            over: &[],
        };
        let Decision::Pay(plan) = decide(&self.limits, &purchase, &self.offers) else {
            return Err("the limits of the benchmark refuse its payments".into());
        };
        let offer = &self.offers[plan.offer];
        let nonce: [u8; 32] = random()?;
        let (_, tail) = nonce.split_last_chunk::<10>().ok_or("no random numbers")?;
        Ok(Reserve {
            hold: Hold {
                rid: PaymentId::new(now, *tail),
                group: plan.group.as_deref().map(str::to_owned),
                host: "api.example.com".into(),
                origin: None,
                path: "/premium-data".into(),
                query: None,
                terms: Terms {
                    rail: challenge::Rail::X402,
                    asset: offer.asset,
                    amount: offer.amount,
                    usd: plan.usd,
                    payee: offer.payee.clone(),
                    clause: offer.clause,
                },
                charges: plan.charges,
                policy_gen: 1,
                fingerprint: [1; 32],
                idempotency: None,
                offer_sha256: offer.sha256,
                others: Vec::new(),
                agent,
            },
            arm: Arm {
                from: Address::repeat_byte(0x11).into(),
                issuer: None,
                nonce: B256::new(nonce).into(),
                signer: None,
                valid_after: 0,
                valid_before: u64::try_from(now.as_second())? + 60,
            },
        })
    }
}

/// A data directory as `bursar init` creates it, as far as the ledger needs it.
pub(crate) fn furnish(dir: &Path, agents: usize) -> Result<(), Fault> {
    let key = "ed25519-seed AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
    write_new(&dir.join("log.key"), key.as_bytes(), Readers::Owner)?;
    write_new(
        &dir.join("limits.toml"),
        limits(agents, NEVER)?.as_bytes(),
        Readers::Owner,
    )?;
    std::fs::create_dir(dir.join("audit"))?;
    Ok(())
}

pub(crate) fn name(agent: usize) -> String {
    format!("agent-{agent:05}")
}

fn limits(agents: usize, dollars: u64) -> Result<String, Fault> {
    let mut text = "timezone = \"UTC\"\n".to_owned();
    for agent in 0..agents {
        write!(text, "\n[agents.{}]\n{FOUR}total = \"{dollars}\"\n", name(agent))?;
    }
    Ok(text)
}

fn offers() -> Result<Vec<Offer>, Fault> {
    let vector: serde_json::Value = serde_json::from_str(CHALLENGE)?;
    let header = vector["response"]["headers"]["PAYMENT-REQUIRED"].as_str();
    let challenge = challenge::v2(header.ok_or("the vector has no challenge")?.as_bytes());
    let challenge = challenge.map_err(|why| format!("the vector's challenge: {why:?}"))?;
    Ok(challenge.offers)
}
