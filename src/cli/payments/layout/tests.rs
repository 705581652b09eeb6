use super::*;
use crate::cli::payments::chosen::Order;
use bursar_ledger::PaymentId;

const TERMINAL: Look = Look {
    width: 160,
    is_terminal: true,
    has_colours: false,
};

fn payment(at: &str, usd: &str, agent: &str, merchant: &str) -> PaymentRecord {
    let at = at.parse().unwrap();
    PaymentRecord {
        id: PaymentId::parse("01a1f8b7-7082-7a04-a377-0dc81aefda02").unwrap(),
        state: State::Settled,
        by: None,
        agent: agent.to_owned(),
        group: None,
        rail: "x402".to_owned(),
        scheme: "exact".to_owned(),
        network: "eip155:84532".to_owned(),
        merchant: merchant.to_owned(),
        resource: format!("https://{merchant}/paid"),
        asset: "eip155:84532/erc20:0x036cbd53842c5426634e7929541ec2318f3dcf7e".to_owned(),
        symbol: "USDC".to_owned(),
        amount: "1".to_owned(),
        amount_decimal: usd.to_owned(),
        usd: usd.to_owned(),
        taken: None,
        payee: "0x".to_owned(),
        nonce: None,
        valid_before: None,
        tx: None,
        reason: None,
        approval: None,
        disputed: None,
        created_at: at,
        updated_at: at,
    }
}

fn refusal(at: &str) -> Refused {
    Refused {
        at: at.parse().unwrap(),
        agent: "b".to_owned(),
        group: None,
        merchant: "z.example".to_owned(),
        reason: "over-limit".to_owned(),
        rule: "agents.b.day".to_owned(),
        usd: Some("2.00".to_owned()),
        count: 3,
    }
}

#[test]
fn a_wide_terminal_has_a_line_each_and_a_narrow_one_two() {
    let payments = [
        payment("2026-11-20T08:00:00Z", "10.00", "a", "x.example"),
        payment("2026-11-20T10:00:00Z", "9.50", "longer", "y.example"),
    ];
    let refusals = [refusal("2026-11-20T09:00:00Z")];
    let rows = Row::ordered(&payments, &refusals, Order::Time);
    let zone = ShownZone::plain_utc();
    let id = "01a1f8b7-7082-7a04-a377-0dc81aefda02";
    assert_eq!(
        listed(&rows, &zone, TERMINAL),
        format!(
            "   Times are in UTC.\n\
             2026-11-20 08:00:00  settled  10.00  USDC  a       https://x.example/paid               {id}\n\
             2026-11-20 09:00:00  refused   2.00  USD   b       z.example by agents.b.day (3 times)\n\
             2026-11-20 10:00:00  settled   9.50  USDC  longer  https://y.example/paid               {id}\n"
        )
    );
    let narrow = listed(&rows, &zone, Look { width: 80, ..TERMINAL });
    assert_eq!(
        narrow,
        format!(
            "   Times are in UTC.\n   \
             2026-11-20 08:00:00  settled       10.00 USDC  a            https://x.example/paid\n   {id}\n   \
             2026-11-20 09:00:00  refused        2.00 USD   b            z.example by agents.b.day (3 times)\n   \
             2026-11-20 10:00:00  settled        9.50 USDC  longer       https://y.example/paid\n   {id}\n"
        )
    );
    assert_eq!(listed(&rows, &zone, Look::of_no_terminal()), narrow);
}

#[test]
fn a_long_resource_is_cut_and_no_line_is_wider_than_the_terminal() {
    let host = format!("{}.example", "a".repeat(60));
    let payments = [payment("2026-11-20T08:00:00Z", "1.00", "a", &host)];
    let rows = Row::ordered(&payments, &[], Order::Time);
    for width in 90..200 {
        let look = Look { width, ..TERMINAL };
        let text = listed(&rows, &ShownZone::plain_utc(), look);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let fits = lines.iter().all(|line| line.chars().count() <= width);
        match lines.len() {
            1 => assert!(fits, "{width}: {text}"),
            lines => assert_eq!((lines, width < 120), (2, true), "{width}: {text}"),
        }
        assert_eq!(text.contains('…'), lines.len() == 1 && width < 164, "{width}: {text}");
    }
}

#[test]
fn colours_stand_only_around_the_state() {
    let payments = [payment("2026-11-20T08:00:00Z", "1.00", "a\u{1b}[2J", "x.example")];
    let rows = Row::ordered(&payments, &[], Order::Time);
    let zone = ShownZone::plain_utc();
    for width in [60, 160] {
        let look = Look {
            width,
            has_colours: true,
            ..TERMINAL
        };
        let (coloured, without) = (
            listed(&rows, &zone, look),
            listed(
                &rows,
                &zone,
                Look {
                    has_colours: false,
                    ..look
                },
            ),
        );
        assert_eq!(coloured.matches('\u{1b}').count(), 2, "{coloured:?}");
        assert_eq!(without.matches('\u{1b}').count(), 0, "{without:?}");
        let bare = coloured.replace("\u{1b}[32m", "").replace("\u{1b}[0m", "");
        assert_eq!(bare, without);
    }
}

#[test]
fn rows_are_sorted_and_equal_ones_stay_in_order_of_time() {
    let payments = [
        payment("2026-11-20T08:00:00Z", "10.00", "b", "y.example"),
        payment("2026-11-20T10:00:00Z", "9.50", "a", "x.example"),
        payment("2026-11-20T11:00:00Z", "9.50", "a", "y.example"),
    ];
    let refusals = [refusal("2026-11-20T09:00:00Z")];
    let hours = |order| {
        let rows = Row::ordered(&payments, &refusals, order);
        rows.iter()
            .map(|row| row.at().to_string()[11..13].to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(hours(Order::Time), ["08", "09", "10", "11"]);
    assert_eq!(hours(Order::Amount), ["09", "10", "11", "08"], "as numbers");
    assert_eq!(hours(Order::Merchant), ["10", "08", "11", "09"]);
    assert_eq!(hours(Order::Agent), ["10", "11", "08", "09"]);
}
