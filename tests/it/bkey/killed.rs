//! The process is killed at every step from the order at BKey to its exit: every signature that exists is counted, a
//! request never gets a second one, and the seller never gets one that is not recorded.

use http::Request;
use http_body_util::Full;

use crate::bkey::{at_a_cent, home};
use crate::support::agent::Agent;
use crate::support::bkey::{Dialect, FakeBkey};
use crate::support::bursar::Bursar;
use crate::support::faults::{Faults, Moment};
use crate::support::origin::Origin;
use crate::support::seller;

const LIMITS: &str = "[agents.research]\ntotal = \"20.00\"\n";

struct Story {
    origin: Origin,
    fake: FakeBkey,
    faults: Faults,
    bursar: Bursar,
}

impl Story {
    async fn begin() -> Self {
        let (origin, fake, faults) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth), Faults::none());
        let bursar = home(&origin, &fake, 50, LIMITS).serve_by(faults.program());
        Self {
            origin,
            fake,
            faults,
            bursar,
        }
    }

    /// One purchase with planned faults, a restart, and the agent's repeat. Returns whether the process was killed.
    async fn run_case(&mut self, path: &str, when: &str, plan: impl FnOnce(&Faults)) -> bool {
        let Self {
            origin,
            fake,
            faults,
            bursar,
        } = self;
        let signed_before = fake.payments(|of| of.signatures());
        let address = origin.address;
        let mut connection = Agent::of(bursar).connect(address, &["http/1.1"]).await;
        plan(faults);
        let request = Request::get(path).body(Full::default()).unwrap();
        let page = connection.send(address, request).await.ok();
        drop(connection);
        let died = bursar.stop() < 0;
        faults.clear();
        *bursar = bursar.kill().serve_by(faults.program());

        let signed = fake.payments(|of| of.signatures()) - signed_before;
        assert!(signed <= 1, "{when}: {signed} signatures for one request");
        self.agrees(when);
        if page.is_none_or(|page| page.status != 200) {
            let again = Agent::of(&self.bursar).get(address, path).await;
            match again.status.as_u16() {
                // Nothing had been signed, or what was signed could be presented.
                200 => {}
                // It was ordered, or may have been: the outcome is unknown.
                409 => assert_eq!(again.problem(), "payment-in-doubt", "{when}"),
                _ => panic!("{when}: {again:?}"),
            }
            let signed = self.fake.payments(|of| of.signatures()) - signed_before;
            assert!(
                signed <= 1,
                "{when}: {signed} signatures, and then its agent asked again"
            );
            self.agrees(when);
        }
        died
    }

    /// Checks that at least as many payments count as there are signatures, and that what the seller has is recorded.
    fn agrees(&self, when: &str) {
        let payments = self.bursar.payments();
        let counted = payments
            .iter()
            .filter(|payment| ["armed", "unknown", "settled"].contains(&payment["state"].as_str().unwrap()));
        let signed = self.fake.payments(|of| of.signatures());
        assert!(counted.count() >= signed, "{when}: {signed} signed, {payments:?}");
        for credential in self.origin.payments() {
            let (nonce, ..) = seller::signed(&credential);
            let known = payments.iter().any(|payment| payment["nonce"] == nonce.as_str());
            assert!(known, "{when}: the seller holds {nonce}, which is on no record");
        }
    }
}

async fn killed_at_every_step(moment: Moment) {
    let mut story = Story::begin().await;
    for at in 1.. {
        assert!(at < 400, "a purchase without end");
        let when = format!("killed {moment} step {at}");
        if !story
            .run_case(&format!("/{at}"), &when, |faults| faults.kill(at, moment))
            .await
        {
            break;
        }
    }
    story.bursar.stop();
    story.bursar.journal();
}

/// The steps between BKey's answer and the seller, by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_signature_and_the_seller() {
    let mut story = Story::begin().await;
    let seller = format!(">{}", story.origin.address.port());
    for (call, what, nth) in [
        ("sync", "/audit/seg-", 1),
        ("write", "/audit/seg-", 2),
        ("sync", "/audit/seg-", 2),
        ("write", "/private/credentials/", 1),
        ("write", &seller, 2),
    ] {
        for moment in [Moment::Before, Moment::After] {
            let when = format!("killed {moment} {call} {what} {nth}");
            let path = format!("/{}/{nth}/{moment}", when.replace([' ', '/', '>'], "-"));
            let died = story
                .run_case(&path, &when, |faults| faults.kill_at(call, what, nth, moment))
                .await;
            assert!(died, "{when}: it did not");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_step() {
    killed_at_every_step(Moment::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_step() {
    killed_at_every_step(Moment::After).await;
}
