//! What answers are read as.

use proptest::prelude::*;
use tokio::runtime;

use super::*;
use crate::h1::BodyError;

/// What a client got: status, data, trailers; how the answer failed, if it did; and whether the connection is free.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    status: u16,
    data: Vec<u8>,
    trailers: usize,
    failed: Option<BodyError>,
    ending: Option<Ending>,
    is_free: bool,
}

/// The site says this in these parts, and closes only if it is asked to.
async fn got(request: Request<Empty<Bytes>>, parts: Vec<Vec<u8>>, closes: bool) -> Result<Got, Fault> {
    let (mut connection, mut site) = connected();
    let saying = tokio::spawn(async move {
        head(&mut site).await;
        for part in parts {
            site.write_all(&part).await.unwrap();
            // The other end gets a turn.
            tokio::task::yield_now().await;
        }
        (!closes).then_some(site)
    });
    let response = match connection.send(request).await {
        Ok(response) => response,
        Err(SendError::Sent(fault)) => return Err(fault),
        Err(SendError::Unsent(..)) => panic!("nothing was sent"),
    };
    let mut got = Got {
        status: response.status().as_u16(),
        data: Vec::new(),
        trailers: 0,
        failed: None,
        ending: None,
        is_free: false,
    };
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => got.data.extend_from_slice(&data),
            Ok(Err(trailers)) => got.trailers = trailers.into_trailers().unwrap().len(),
            Err(error) => got.failed = Some(error),
        }
    }
    assert!(body.is_end_stream());
    got.ending = body.ending();
    let open = saying.await.unwrap();
    got.is_free = !connection.is_closed();
    drop(open);
    Ok(got)
}

async fn whole(said: &str) -> Got {
    got(get(), vec![said.into()], false).await.unwrap()
}

#[tokio::test]
async fn an_answer_with_a_framing_of_its_own_leaves_a_connection_to_use() {
    for (said, status, data) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"),
        ("HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", 200, ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, ""),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            200,
            "hello",
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
            200,
            "ok",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
            200,
            "ok",
        ),
        ("HTTP/1.1 299 \u{fc}nal\r\nContent-Length: 0\r\n\r\n", 299, ""),
    ] {
        let got = whole(said).await;
        assert_eq!((got.status, got.data.as_slice()), (status, data.as_bytes()), "{said}");
        assert!(got.is_free && got.failed.is_none() && got.ending.is_none(), "{said}");
    }
    let head = with_body(Request::head("/"), Empty::new());
    let said = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec();
    let got = got(head, vec![said], false).await.unwrap();
    assert!(got.is_free && got.data.is_empty());
}

#[tokio::test]
async fn a_connection_is_not_used_again_after_an_answer_that_does_not_allow_it() {
    for said in [
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 2\r\n\r\nok",
        // Bytes that no request has asked for, which could be taken for the next answer.
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n",
    ] {
        let got = whole(said).await;
        assert_eq!((got.data.as_slice(), got.failed), (&b"ok"[..], None), "{said}");
        assert!(!got.is_free, "{said}");
    }
}

#[tokio::test]
async fn trailers_arrive_as_the_site_wrote_them() {
    let (mut connection, mut site) = connected();
    tokio::spawn(async move {
        head(&mut site).await;
        let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-SUM: 1\r\nx-b: 2\r\n\r\n";
        site.write_all(said.as_bytes()).await.unwrap();
        head(&mut site).await;
    });
    let mut body = connection.send(get()).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
    assert!(body.trailer_lines().is_none());
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        (&trailers["x-sum"], &trailers["x-b"]),
        (&"1".parse().unwrap(), &"2".parse().unwrap())
    );
    assert_eq!(body.trailer_lines().unwrap().len(), 2);
    assert!(body.is_end_stream() && connection.ready().await);
}

#[tokio::test]
async fn how_an_answer_ended_is_known() {
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel".to_vec();
    let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n".to_vec();
    let close = b"HTTP/1.1 200 OK\r\n\r\nhel".to_vec();
    for (said, failed) in [
        (length, Some(BodyError::Ended(Ending::Clean))),
        (chunks, Some(BodyError::Ended(Ending::Clean))),
        (close, None),
    ] {
        let got = got(get(), vec![said], true).await.unwrap();
        assert_eq!((got.data.as_slice(), got.failed), (&b"hel"[..], failed));
        assert_eq!((got.ending, got.is_free), (Some(Ending::Clean), false));
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_none() {
    for (said, expected) in [
        ("HTTP/2 200 OK\r\n\r\n", "the answer was not read"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer was not read"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "more than one Content-Length",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Le", "closed the connection"),
        ("", "closed the connection"),
    ] {
        let fault = got(get(), vec![said.into()], true).await.unwrap_err();
        assert!(fault.to_string().contains(expected), "{said:?}: {fault}");
    }
    let many = "X: y\r\n".repeat(257);
    let fault = got(get(), vec![format!("HTTP/1.1 200 OK\r\n{many}\r\n").into()], true)
        .await
        .unwrap_err();
    assert!(fault.to_string().contains("256 fields"), "{fault}");
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(65 << 10));
    let fault = got(get(), vec![long.into()], false).await.unwrap_err();
    assert!(matches!(fault, Fault::HeadTooLong), "{fault}");
}

#[tokio::test]
async fn informational_answers_are_told_in_order_and_are_not_without_end() {
    let early = |number: usize| format!("HTTP/1.1 103 Early Hints\r\nLink: <{number}>\r\n\r\n");
    for (many, is_answered) in [(0, true), (2, true), (64, true), (65, false)] {
        let told = Arc::<Mutex<Vec<String>>>::default();
        let mut request = get();
        let to = told.clone();
        request.extensions_mut().insert(Interims::new(move |interim| {
            let link = interim.headers()["link"].to_str().unwrap().to_owned();
            to.lock().unwrap().push(link);
        }));
        let said: String = (0..many).map(early).collect();
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let got = got(request, vec![said.into(), last.into()], false).await;
        assert_eq!(got.is_ok(), is_answered, "{many}");
        let expected: Vec<String> = (0..many.min(64)).map(|number| format!("<{number}>")).collect();
        assert_eq!(*told.lock().unwrap(), expected);
    }
}

#[tokio::test]
async fn after_101_the_stream_is_there_with_what_was_read_ahead() {
    let (mut connection, mut site) = connected();
    tokio::spawn(async move {
        head(&mut site).await;
        let said = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nfirst";
        site.write_all(said).await.unwrap();
        let mut echo = [0; 6];
        site.read_exact(&mut echo).await.unwrap();
        site.write_all(&echo).await.unwrap();
    });
    let response = connection.send(get()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert!(connection.is_closed(), "no request can follow");
    let (mut stream, _) = response.body().switched().unwrap();
    assert!(response.body().switched().is_none(), "it exists once");
    stream.write_all(b"second").await.unwrap();
    let mut seen = String::new();
    stream.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "firstsecond");
}

/// Answers of every framing, cut at the places that `cuts` says.
fn split(said: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(said.len() + 1)).collect();
    at.extend([0, said.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| said[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_split_of_the_bytes_is_the_same_answer(
        which in 0..6_usize,
        closes: bool,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let said = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 5\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellomore",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            "\r\nHTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZ\r\n",
        ][which].as_bytes();
        // An answer that is cut short ends only if the site does.
        let closes = closes || which == 4;
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let split = runtime.block_on(got(get(), split(said, &cuts), closes));
        let whole = runtime.block_on(got(get(), vec![said.to_vec()], closes));
        let (mut split, whole) = (split.unwrap(), whole.unwrap());
        // Bytes behind an answer are seen with it, or when somebody looks.
        split.is_free = whole.is_free;
        prop_assert_eq!(split, whole);
    }
}
