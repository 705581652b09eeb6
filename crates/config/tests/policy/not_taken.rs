//! Why each offer other than the chosen one was not taken.

use super::*;

#[test]
fn each_offer_that_was_not_chosen_has_a_reason() {
    use RefusalCode::{OverLimit, PayeeNotAllowed, RailNotAllowed};
    let text = "[agents.research]\ntotal = \"9\"\nper_transaction = \"1\"\npayees = { deny = [\"0x00000000000000000000000000000000000000b0\"] }";
    let over = |rail, cents| Bid { rail, ..bid(cents) };
    let upfront = |bid| Bid {
        flow: PaymentFlow::Upfront,
        ..bid
    };
    let bids = [
        over(Rail::X402, 10),
        Bid {
            payee: BOB.into(),
            ..bid(5)
        },
        over(Rail::MppEvm, 10),
        over(Rail::X402Permit2, 10),
        bid(30),
        bid(101),
        upfront(over(Rail::MppEvm, 10)),
        over(Rail::MppEvm, 10),
        upfront(bid(30)),
    ];
    let barred = |code, rule: &str| NotTaken::Barred {
        code,
        rule: rule.to_owned(),
    };
    let plan = paid(text, &bids);
    assert_eq!(plan.offer, 2);
    let others: Vec<(usize, NotTaken)> = plan.others.into_iter().map(|other| (other.offer, other.why)).collect();
    assert_eq!(
        others,
        [
            (0, NotTaken::RailOrder),
            (1, barred(PayeeNotAllowed, "agents.research.payees.deny")),
            // Not `rail-order`: the rail is not in `rails` at all.
            (3, barred(RailNotAllowed, "rails")),
            (4, NotTaken::Dearer),
            (5, barred(OverLimit, "agents.research.per_transaction")),
            (6, NotTaken::Upfront),
            (7, NotTaken::Later),
            (8, NotTaken::Dearer),
        ]
    );
    assert_eq!(paid(text, &bids[2..3]).others.capacity(), 0, "alone, nothing is set up");
}

/// Each code has one meaning, because the code is all that a reader of an entry sees.
#[test]
fn the_codes_of_offers_not_taken_are_used_for_nothing_else() {
    let order = NotTaken::ORDER.iter().map(NotTaken::code);
    let rules = RefusalCode::ALL.iter().map(|code| code.code());
    let unpayable = bursar_core::challenge::Why::ALL.iter().map(|why| why.code());
    let all: Vec<&str> = order.chain(rules).chain(unpayable).collect();
    let different: std::collections::HashSet<&str> = all.iter().copied().collect();
    assert_eq!(different.len(), all.len());
}
