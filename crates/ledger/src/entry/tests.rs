use alloy_primitives::{Address, B256};
use serde::Deserialize;

use super::*;
use crate::model::Source;
use crate::text::Decimal;
use bursar_core::approval::EvidenceKind;
use bursar_core::payment_id::PaymentId;

#[derive(Deserialize)]
struct Vectors {
    entries: Vec<Vector>,
    segment_jsonl_sha256: String,
}

#[derive(Deserialize)]
struct Vector {
    seq: u64,
    utf8: String,
    leaf_hash_hex: String,
}

#[test]
fn hashes_chain_and_segment_match_the_vectors() {
    let vectors: Vectors = serde_json::from_str(include_str!("../../../../fixtures/audit/entries.json")).unwrap();
    let (mut prev, mut segment) = (Digest::ZERO, Vec::new());
    for vector in &vectors.entries {
        let line = vector.utf8.as_bytes();
        let head = read_head(line).unwrap();
        assert_eq!((head.seq, head.prev), (vector.seq, prev));
        prev = Digest::leaf(line);
        assert_eq!(prev.to_string(), vector.leaf_hash_hex);
        segment.extend_from_slice(line);
        segment.push(b'\n');
    }
    assert_eq!(vectors.entries.len(), 8);
    assert_eq!(Digest::of(&segment).to_string(), vectors.segment_jsonl_sha256);
}

fn rid(last: u8) -> PaymentId {
    PaymentId::new("2026-11-20T08:00:02Z".parse().unwrap(), [last; 10])
}

fn reserved() -> Reserved {
    Reserved {
        agent: "crawler \u{1}\"\\/é\u{7f}\u{2028}😀".into(),
        amount: Decimal(u128::MAX),
        arm: Some(arm()),
        asset: "eip155:8453/erc20:0x833589fcd6edb6e08f4c7c32d4f71b54bda02913".into(),
        decimals: 6,
        facilitator: None,
        fee: None,
        fp: Digest([1; 32]),
        group: Some("eng".into()),
        host: "api.example.com".into(),
        idem: Some(Digest([2; 32])),
        network: "eip155:8453".into(),
        offer_sha256: Digest([3; 32]),
        others: Vec::new(),
        payee: Address::repeat_byte(0xAB).into(),
        policy_gen: 7,
        rail: "x402".into(),
        rid: rid(1),
        scheme: "exact".into(),
        sd: vec!["AUsHjcbWT-FgKRhiEqKjVNtVF2ksvIWx6U8d1c4ltFU".into()],
        symbol: "USDC".into(),
        usd_micros: Decimal(10_000),
        windows: vec![WindowCharge(
            "agent:crawler".into(),
            "count.day".into(),
            "2026-11-20T00:00:00+01:00[Europe/Berlin]".into(),
            Decimal(1),
            Decimal(20),
        )],
    }
}

fn arm() -> Arm {
    Arm {
        from: Address::repeat_byte(0xCD).into(),
        issuer: None,
        nonce: Some(B256::repeat_byte(0xEF)),
        signer: None,
        valid_after: Decimal(0),
        valid_before: Decimal(u64::MAX),
    }
}

fn all_bodies() -> Vec<Body> {
    let (rid, why, who) = (rid(2), "restart".to_owned(), "ops".to_owned());
    let bare = Reserved {
        arm: None,
        group: None,
        idem: None,
        sd: vec![],
        windows: vec![],
        ..reserved()
    };
    let sha256 = Digest([9; 32]);
    let (scope, window, start) = ("agent:a".into(), "day".into(), "2026-11-20".into());
    let part = WindowCharge(scope, window, start, Decimal(30_000), Decimal(100));
    vec![
        Body::Opened(Opened {
            sw: "bursar/1".into(),
            torn_bytes: None,
            torn_sha256: None,
        }),
        Body::Opened(Opened {
            sw: "bursar/1".into(),
            torn_bytes: Some(3),
            torn_sha256: Some(sha256),
        }),
        Body::Closed(Closed {}),
        Body::PolicyLoaded(PolicyLoaded {
            policy_gen: 1,
            sha256,
            who: who.clone(),
        }),
        Body::PolicyRejected(PolicyRejected {
            reason: "line 3".into(),
            sha256,
            who: who.clone(),
        }),
        Body::Reserved(Arc::new(reserved())),
        Body::Reserved(Arc::new(bare)),
        Body::Armed(Armed {
            approval: Some("a".into()),
            arm: Arm {
                issuer: Some(bursar_core::account::AccountMark([3; 16])),
                ..arm()
            },
            rid,
            windows: Some(vec![WindowCharge(
                "agent:a".into(),
                "rolling.86400".into(),
                "1795161600".into(),
                Decimal(1),
                Decimal(2),
            )]),
        }),
        Body::Armed(Armed {
            approval: None,
            arm: Arm {
                nonce: None,
                signer: Some(crate::model::Signer::Bkey),
                ..arm()
            },
            rid,
            windows: None,
        }),
        Body::Issued(Issued {
            authorization: Some("auth_1".into()),
            nonce: B256::repeat_byte(0xEF),
            rid,
            valid_after: Decimal(0),
            valid_before: Decimal(u64::MAX),
        }),
        Body::Issued(Issued {
            authorization: None,
            nonce: B256::ZERO,
            rid,
            valid_after: Decimal(1),
            valid_before: Decimal(2),
        }),
        Body::Presented(Presented { number: 1, rid }),
        Body::Settled(Settled {
            back: Vec::new(),
            by: Source::Merchant,
            rid,
            taken: None,
            tx: Some("0xab".into()),
            why: None,
        }),
        Body::Settled(Settled {
            back: vec![part.clone()],
            by: Source::Chain,
            rid,
            taken: Some(Decimal(0)),
            tx: Some("0xab".into()),
            why: Some(why.clone()),
        }),
        Body::Confirmed(Confirmed {
            back: Vec::new(),
            block: Some(7),
            by: Source::Chain,
            rid,
            taken: None,
            tx: Some("0xab".into()),
        }),
        Body::Confirmed(Confirmed {
            back: vec![part.clone(), part],
            block: None,
            by: Source::Stripe,
            rid,
            taken: Some(Decimal(u128::MAX)),
            tx: None,
        }),
        Body::Settled(Settled {
            back: Vec::new(),
            by: Source::Operator,
            rid,
            taken: None,
            tx: None,
            why: Some(why.clone()),
        }),
        Body::Unknown(Unknown {
            rid,
            tx: None,
            why: why.clone(),
        }),
        Body::Released(Released { rid, why: why.clone() }),
        Body::Expired(Expired {
            by: Source::Chain,
            rid,
            why: why.clone(),
        }),
        Body::Refused(Refused {
            agent: "a".into(),
            count: 3,
            group: Some("eng".into()),
            host: "h".into(),
            reason: "over-limit".into(),
            rule: "agents.a.day".into(),
            usd_micros: Some(Decimal(5)),
        }),
        Body::Admin(Admin {
            action: "payments.resolve.expired".into(),
            rid: Some(rid),
            who,
            why: why.clone(),
        }),
        Body::Rebuilt(Rebuilt { entries: 12, why }),
    ]
    .into_iter()
    .chain(approval_bodies())
    .collect()
}

fn moment(text: &str) -> Moment {
    Moment::of(text.parse().unwrap())
}

fn approval_bodies() -> [Body; 5] {
    let (id, until) = (rid(3), moment("2026-11-20T08:05:00Z"));
    let (by, why) = (Some("uid:0".to_owned()), "denied".to_owned());
    [
        Body::ApprovalRequested(ApprovalRequested {
            agent: "crawler".into(),
            approver: "did:bkey:é".into(),
            backend: "ciba".into(),
            id,
            intent: Digest([4; 32]),
            needed: 2,
            rid: rid(1),
            rules: vec!["agents.a.approval_above".into()],
            sd: vec!["A1".into(), "b2".into()],
            until,
        }),
        Body::ApprovalGranted(ApprovalGranted {
            by: "did:bkey:1".into(),
            evidence_sha256: Digest([5; 32]),
            id,
            kind: EvidenceKind::SignedToken,
            replay: Digest([6; 32]),
            replay_until: moment("2026-11-20T08:06:30.25Z"),
            use_by: until,
        }),
        Body::ApprovalDenied(ApprovalDenied { by, id, until, why }),
        Body::ApprovalDenied(ApprovalDenied {
            by: None,
            id,
            until,
            why: "access_denied".into(),
        }),
        Body::ApprovalExpired(ApprovalExpired {
            id,
            why: "error:start_unknown".into(),
        }),
    ]
}

fn encoded(body: Body) -> (Entry, Vec<u8>) {
    let entry = Entry {
        seq: 5,
        ts: Moment::of("2026-11-20T08:00:02.5Z".parse().unwrap()),
        body,
    };
    let mut line = Vec::new();
    entry.encode(&Digest([7; 32]), &mut line).unwrap();
    (entry, line)
}

#[test]
fn every_event_is_canonical_and_reads_back() {
    for body in all_bodies() {
        let (entry, line) = encoded(body);
        let tree: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let canonical = serde_json_canonicalizer::to_vec(&tree).unwrap();
        assert_eq!(String::from_utf8_lossy(&line), String::from_utf8_lossy(&canonical));
        assert_eq!(tree["ev"], entry.body.ev(Version::CURRENT));
        assert_eq!(Entry::parse(&line).unwrap(), (entry, Digest([7; 32])));
    }
}

/// Entries about payments taken in full are unchanged since before partial ones existed.
#[test]
fn without_a_part_there_is_no_word_of_it() {
    let confirmed = Confirmed {
        back: Vec::new(),
        block: Some(7),
        by: Source::Chain,
        rid: rid(1),
        taken: None,
        tx: Some("0xab".into()),
    };
    let (_, line) = encoded(Body::Confirmed(confirmed.clone()));
    let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
    let (rid, prev) = (rid(1), Digest([7; 32]));
    let whole = format!(
        r#"{{"block":7,"by":"chain","ev":"pay.confirmed","prev":"{prev}","rid":"{rid}","seq":5,"ts":"2026-11-20T08:00:02.500000Z","tx":"0xab","v":2}}"#
    );
    assert_eq!(text(line), whole);
    let windows = ["agent:a", "day", "2026-11-20"].map(str::to_owned);
    let [scope, window, start] = windows;
    let (_, line) = encoded(Body::Confirmed(Confirmed {
        back: vec![WindowCharge(scope, window, start, Decimal(30_000), Decimal(100))],
        taken: Some(Decimal(20_000)),
        ..confirmed
    }));
    let part = format!(
        r#"{{"back":[["agent:a","day","2026-11-20","30000","100"]],"block":7,"by":"chain","ev":"pay.confirmed","prev":"{prev}","rid":"{rid}","seq":5,"taken":"20000","ts":"2026-11-20T08:00:02.500000Z","tx":"0xab","v":2}}"#
    );
    assert_eq!(text(line), part);
}

/// Byte for byte: what an auditor reads, and nothing else (R46).
#[test]
fn approvals_are_recorded_by_hashes() {
    let head = |ev: &str| format!(r#""ev":"{ev}""#);
    let (prev, hash) = (Digest([7; 32]), |n| Digest([n; 32]));
    let tail = r#""seq":5,"ts":"2026-11-20T08:00:02.500000Z""#;
    let (id, until) = (rid(3), r#""until":"2026-11-20T08:05:00.000000Z""#);
    let expected = [
        format!(
            r#"{{"agent":"crawler","approver":"did:bkey:é","backend":"ciba",{},"id":"{id}","intent":"{}","needed":2,"prev":"{prev}","rid":"{}","rules":["agents.a.approval_above"],"sd":["A1","b2"],{tail},{until},"v":2}}"#,
            head("approval.requested"),
            hash(4),
            rid(1)
        ),
        format!(
            r#"{{"by":"did:bkey:1",{},"evidence_sha256":"{}","id":"{id}","kind":"signed_token","prev":"{prev}","replay":"{}","replay_until":"2026-11-20T08:06:30.250000Z",{tail},"use_by":"2026-11-20T08:05:00.000000Z","v":2}}"#,
            head("approval.granted"),
            hash(5),
            hash(6)
        ),
        format!(
            r#"{{"by":"uid:0",{},"id":"{id}","prev":"{prev}",{tail},{until},"v":2,"why":"denied"}}"#,
            head("approval.denied")
        ),
        format!(
            r#"{{{},"id":"{id}","prev":"{prev}",{tail},{until},"v":2,"why":"access_denied"}}"#,
            head("approval.denied")
        ),
        format!(
            r#"{{{},"id":"{id}","prev":"{prev}",{tail},"v":2,"why":"error:start_unknown"}}"#,
            head("approval.expired")
        ),
    ];
    // As directories of format 3 have it: without rules and commitments.
    let of_before = expected[0].replace(r#""rules":["agents.a.approval_above"],"sd":["A1","b2"],"#, "");
    assert_ne!(of_before, expected[0]);
    let (entry, _) = Entry::parse(of_before.as_bytes()).unwrap();
    let Body::ApprovalRequested(requested) = entry.body else {
        panic!("{of_before}")
    };
    assert!(requested.rules.is_empty() && requested.sd.is_empty());
    for (body, expected) in approval_bodies().into_iter().zip(expected) {
        assert_eq!(String::from_utf8(encoded(body).1).unwrap(), expected);
    }
}

#[test]
fn a_line_with_one_byte_more_or_less_in_its_members_is_refused() {
    let (_, line) = encoded(Body::Unknown(Unknown {
        rid: rid(1),
        tx: None,
        why: "x".into(),
    }));
    let text = String::from_utf8(line).unwrap();
    for (from, to) in [
        ("{", "{ "),
        ("{", "{\"a\":1,"),
        ("\"why\":\"x\"", "\"why\":\"\\u0078\""),
        ("pay.unknown", "pay.unheard"),
        ("\"v\":2", "\"v\":3"),
        ("\"seq\":5", "\"seq\":05"),
        (",\"why\":\"x\"", ""),
        ("02.500000Z", "02.5Z"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        assert!(Entry::parse(changed.as_bytes()).is_err(), "{changed}");
    }
}

#[test]
fn lines_of_version_1_read_as_they_were_written_and_have_their_own_names() {
    let mut renamed = std::collections::BTreeSet::new();
    for body in all_bodies() {
        let (entry, new) = encoded(body);
        let mut old = Vec::new();
        entry.encode_as(Version::V1, &Digest([7; 32]), &mut old).unwrap();
        let (read, _) = Entry::parse(&old).unwrap();
        assert_eq!(read, entry);
        let names = [Version::V1, Version::V2].map(|version| entry.body.ev(version));
        if names[0] != names[1] {
            renamed.insert(names[1]);
            // Each version has its own table: neither accepts the other's name.
            let (old, new) = (String::from_utf8(old).unwrap(), String::from_utf8(new).unwrap());
            for crossed in [old.replace("\"v\":1", "\"v\":2"), new.replace("\"v\":2", "\"v\":1")] {
                assert!(
                    matches!(Entry::parse(crossed.as_bytes()), Err(EntryError::UnknownEvent(_))),
                    "{crossed}"
                );
            }
        }
    }
    assert!(renamed.into_iter().eq(["approval.denied", "pay.refused"]));
}

#[test]
fn an_entry_over_16_kib_is_refused_and_leaves_no_trace() {
    let mut line = b"before".to_vec();
    let body = Body::Unknown(Unknown {
        rid: rid(1),
        tx: None,
        why: "x".repeat(MAX_ENTRY),
    });
    let entry = Entry {
        seq: 0,
        ts: Moment::of("2026-11-20T08:00:02Z".parse().unwrap()),
        body,
    };
    assert!(matches!(
        entry.encode(&Digest::ZERO, &mut line),
        Err(EntryError::TooLong)
    ));
    assert_eq!(line, b"before");
}

/// The most offers that a 402 may have (R33), with all windows that have a name, each member at its longest.
#[test]
fn the_longest_list_of_other_offers_fits() {
    use bursar_core::challenge::{Place, Protocol, Rail, Why};
    use bursar_core::policy::budget::{PAYEE, PENDING, SINCE_APPROVAL, Window};
    use bursar_core::policy::{NotTaken, RefusalCode};

    const BESIDE: usize = bursar_core::challenge::MAX_OFFERS - 1;
    let longest = |texts: Vec<&'static str>| texts.into_iter().max_by_key(|text| text.len()).unwrap();
    let whys = Why::ALL.iter().map(|why| why.code());
    let refusals = RefusalCode::ALL.iter().map(|code| code.code());
    let order = NotTaken::ORDER.iter().map(NotTaken::code);
    let name = "a.".repeat(32);
    let other = Other {
        at: Place::of(Protocol::X402, BESIDE).to_string(),
        rail: Some(longest(Rail::ALL.map(Rail::name).to_vec()).to_owned()),
        // The longest key that excludes an offer, in the section of an agent whose name needs quotes.
        rule: Some(format!("agents.\"{name}\".per_transaction")),
        usd_micros: Some(Decimal(u128::MAX)),
        why: longest(whys.chain(refusals).chain(order).collect()).to_owned(),
    };
    let zone = "2026-11-20T00:00:00-03:00[America/Argentina/ComodRivadavia]";
    let mut windows = Vec::new();
    for scope in ["account".to_owned(), format!("group:{name}"), format!("agent:{name}")] {
        // All windows with a name, of money and of payments, and those that questions and `max_pending` add.
        let named = Window::NAMED.map(Window::name);
        let counts = named.map(|name| format!("count.{name}"));
        let others = [PENDING, SINCE_APPROVAL, PAYEE];
        for window in named.into_iter().chain(others).map(str::to_owned).chain(counts) {
            let (most, most_cap) = (Decimal(u128::MAX), Decimal(u128::MAX));
            windows.push(WindowCharge(scope.clone(), window, zone.into(), most, most_cap));
        }
    }
    let payee = bursar_core::account::Account::parse(&format!("profile_{}", "x".repeat(56))).unwrap();
    let reserved = Reserved {
        agent: name.clone(),
        arm: Some(Arm {
            from: payee.clone(),
            issuer: Some(bursar_core::account::AccountMark([0xFF; 16])),
            ..arm()
        }),
        facilitator: Some(Address::ZERO),
        fee: Some(Decimal(u128::MAX)),
        group: Some(name),
        host: "a".repeat(253),
        others: Other::that_fit(vec![other; BESIDE]),
        payee,
        policy_gen: (1 << 53) - 1,
        sd: vec!["AUsHjcbWT-FgKRhiEqKjVNtVF2ksvIWx6U8d1c4ltFU".into(); 2],
        usd_micros: Decimal(u128::MAX),
        windows,
        ..reserved()
    };
    let entry = Entry {
        seq: u64::MAX,
        ts: Moment::of("2026-11-20T08:00:02Z".parse().unwrap()),
        body: Body::Reserved(Arc::new(reserved)),
    };
    let mut line = Vec::new();
    entry.encode(&Digest::ZERO, &mut line).unwrap();
    assert_eq!(Entry::parse(&line).unwrap().0, entry);
}

#[test]
fn what_fits_of_other_offers_is_kept_and_the_rest_is_a_number() {
    let other = |at: usize, rule: Option<&str>| Other {
        at: format!("x402 {at}"),
        rail: None,
        rule: rule.map(str::to_owned),
        usd_micros: None,
        why: "network-unsupported".into(),
    };
    for count in [0, 1, 63] {
        let short: Vec<Other> = (0..count).map(|at| other(at, None)).collect();
        assert_eq!(Other::that_fit(short.clone()), short);
    }
    let rule = "r".repeat(200);
    let long: Vec<Other> = (0..63).map(|at| other(at, Some(&rule))).collect();
    let kept = Other::that_fit(long.clone());
    let (last, whole) = kept.split_last().unwrap();
    assert!((10..63).contains(&whole.len()));
    assert_eq!(whole, &long[..whole.len()]);
    assert_eq!(
        (last.at.as_str(), last.why.as_str()),
        (&*format!("and {} more", 63 - whole.len()), NOT_RECORDED)
    );
    assert!(serde_json::to_vec(&kept).unwrap().len() <= 4 << 10);
    // One that is longer than all the room leaves only the number.
    let huge = Other::that_fit(vec![other(0, Some(&"r".repeat(5000)))]);
    assert_eq!((huge.len(), huge[0].at.as_str()), (1, "and 1 more"));
}
