//! Uploads that cost more memory than they have bytes, and many of them at once. What the process really uses is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::{Town, held, resident, tunnel};
use crate::support::agent::Agent;
use crate::support::bursar::{eventually, setup};
use crate::support::origin::{Origin, answer};
use crate::support::seller::{self, challenge, requirement};
use crate::support::wire::{Message, Wire, soon};

/// Sends `times` chunks of one byte each, and reads the answer.
async fn drip(agent: &Agent, port: u16, path: &str, times: usize) -> Message {
    const AT_ONCE: usize = 4096;
    let mut wire = Wire::new(tunnel(agent, "localhost", port, &["http/1.1"]).await.unwrap());
    wire.say(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ))
    .await;
    let chunks = b"1\r\nu\r\n".repeat(AT_ONCE);
    for _ in 0..times / AT_ONCE {
        soon(wire.say(&chunks)).await;
    }
    wire.say("0\r\n\r\n").await;
    wire.answer().await.unwrap()
}

/// The worst case: the uploads may repeat an outstanding payment, so each is read whole before any of it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_in_chunks_of_one_byte_take_no_more_memory_than_their_bytes() {
    const UPLOADS: usize = 8;
    const BYTES: usize = 128 << 10;
    /// Kept frames would take 32 bytes each, twice, and their read buffers: more than 70 MiB for these.
    const MOST: usize = 24 << 20;
    let (arrived, go_on) = (Arc::new(AtomicUsize::new(0)), held());
    let (count, gate) = (arrived.clone(), go_on.clone());
    let site = Origin::https(move |request| {
        let (count, gate) = (count.clone(), gate.clone());
        async move {
            if request.body.len() == BYTES {
                assert!(request.body.iter().all(|byte| *byte == b'u'));
                count.fetch_add(1, Ordering::SeqCst);
                let _turn = gate.acquire().await;
                return answer(404, &[], "");
            }
            match request.is_paid() {
                true => answer(500, &[], "lost"),
                false => seller::v2(&challenge("/", &[requirement("10000")])),
            }
        }
    })
    .await;
    let town = Town::trusting(setup(), held(), None, &site.ca_pem).await;
    let token = town.bursar.home.add_agent("payer");
    let payer = Arc::new(Agent::named(&town.bursar, "payer", &token));
    assert_eq!(payer.post(site.address, "/lost", "first").await.status, 500);
    // Its buffers and pools are there before anything is measured.
    town.good_ones_buy(super::GOOD).await;
    let before = resident(town.bursar.pid());
    let port = site.address.port();
    let mut uploads = JoinSet::new();
    for _ in 0..UPLOADS {
        let payer = payer.clone();
        uploads.spawn(async move { drip(&payer, port, "/lost", BYTES).await });
    }
    town.good_ones_buy(super::GOOD).await;
    let all = || (arrived.load(Ordering::SeqCst) == UPLOADS).then_some(());
    eventually("all uploads are there", all).await;
    let grown = resident(town.bursar.pid()).saturating_sub(before);
    assert!(
        grown < MOST,
        "{} KiB for {} KiB of uploads",
        grown >> 10,
        (UPLOADS * BYTES) >> 10
    );
    go_on.add_permits(UPLOADS);
    while let Some(uploaded) = uploads.join_next().await {
        assert_eq!(uploaded.unwrap().status(), 404);
    }
    let booked = town.bursar.payments();
    assert_eq!(booked.len(), 1 + 2 * super::GOOD);
    let unknown = booked.iter().filter(|payment| payment["state"] == "unknown").count();
    assert_eq!(
        (unknown, site.payments().len()),
        (1, 1),
        "the uploads were other requests, and cost nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_uploads_at_once_stay_within_their_memory() {
    const UPLOADS: usize = 100;
    const BYTES: usize = 1 << 20;
    /// 8 MiB are set below, and each of 200 connections has buffers of its own.
    const MOST: usize = 64 << 20;
    // Asks for money only when all uploads are there, so that all of them are kept at the same time.
    let (arrived, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let go_on = held();
    let (count, door, gate) = (arrived.clone(), open.clone(), go_on.clone());
    let site = Origin::https(move |request| {
        let (count, door, gate) = (count.clone(), door.clone(), gate.clone());
        async move {
            assert_eq!(request.body.len(), BYTES);
            if request.is_paid() {
                return seller::sold("goods");
            }
            count.fetch_add(1, Ordering::SeqCst);
            if !door.load(Ordering::SeqCst) {
                let _turn = gate.acquire().await;
            }
            seller::v2(&challenge("/", &[requirement("10000")]))
        }
    })
    .await;
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"100.00\"\n[agents.writer]\nday = \"100.00\"\n";
    let setup = setup().limits(limits).config("[capacity]\nupload_memory_mib = 8\n");
    let home = setup.trust(&site.ca_pem).home();
    let writer = home.add_agent("writer");
    let bursar = home.serve();
    let (bad, good) = (Arc::new(Agent::of(&bursar)), Agent::named(&bursar, "writer", &writer));
    let before = resident(bursar.pid());
    let mut uploads = JoinSet::new();
    for _ in 0..UPLOADS {
        let (bad, address) = (bad.clone(), site.address);
        uploads.spawn(async move { soon(bad.post(address, "/up", vec![b'u'; BYTES])).await });
    }
    eventually("all uploads are there", || {
        (arrived.load(Ordering::SeqCst) == UPLOADS).then_some(())
    })
    .await;
    let grown = resident(bursar.pid()).saturating_sub(before);
    assert!(grown < MOST, "{} KiB for {UPLOADS} MiB of uploads", grown >> 10);
    // Another agent's upload is kept, and paid for.
    open.store(true, Ordering::SeqCst);
    let page = soon(good.post(site.address, "/mine", vec![b'g'; BYTES])).await;
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]), "{page:?}");
    go_on.add_permits(UPLOADS);
    let (mut paid, mut passed_on) = (0, 0);
    while let Some(uploaded) = uploads.join_next().await {
        let page = uploaded.unwrap();
        match page.status.as_u16() {
            200 => paid += 1,
            402 => {
                assert_eq!(
                    page.header("proxy-status"),
                    Some("bursar; details=\"body-too-large-to-replay\"")
                );
                passed_on += 1;
            }
            _ => panic!("{page:?}"),
        }
    }
    // A quarter of 8 MiB holds two of them.
    assert_eq!((paid, passed_on), (2, UPLOADS - 2));
    assert_eq!(site.payments().len(), 3);
    // The memory has come back.
    let page = soon(bad.post(site.address, "/again", vec![b'u'; BYTES])).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(bursar.states(), ["settled"; 4]);
}

/// A body that is read ahead because it may repeat an outstanding payment arrives as it was sent, in whatever pieces.
#[tokio::test]
async fn what_is_read_ahead_reaches_the_site_as_it_was_sent() {
    let site = Origin::https(|request| async move {
        if request.target == "/lost" {
            // The payment's outcome stays unknown, so that later requests to this target may be repeats.
            return match request.is_paid() {
                true => answer(500, &[], "lost"),
                false => seller::v2(&challenge("/", &[requirement("10000")])),
            };
        }
        answer(404, &[], "")
    })
    .await;
    let bursar = setup().trust(&site.ca_pem).start();
    let agent = Agent::of(&bursar);
    assert_eq!(agent.post(site.address, "/lost", "first").await.status, 500);
    // Another body is another request; it is read whole before any of it is sent. The last one is too large to be kept.
    for (pieces, each) in [(3000, 1), (40, 20_000), (80, 20_000)] {
        let mut wire = Wire::new(
            tunnel(&agent, "localhost", site.address.port(), &["http/1.1"])
                .await
                .unwrap(),
        );
        let port = site.address.port();
        wire.say(format!(
            "POST /lost HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .await;
        let mut sent = Vec::new();
        for piece in 0..pieces {
            let bytes = vec![(piece % 251) as u8; each];
            soon(wire.say([format!("{each:x}\r\n").as_bytes(), &bytes, b"\r\n"].concat())).await;
            sent.extend(bytes);
        }
        wire.say("0\r\n\r\n").await;
        let page = soon(wire.answer()).await.unwrap();
        let kept = sent.len() <= 1 << 20;
        assert_eq!(page.status(), if kept { 500 } else { 402 }, "{pieces} x {each}");
        let seen = site.seen();
        let arrived: Vec<_> = seen.iter().filter(|seen| seen.body == sent).collect();
        assert_eq!(arrived.len(), if kept { 2 } else { 1 }, "{pieces} x {each}");
    }
}
