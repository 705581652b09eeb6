//! Inputs to begin with, made from `fixtures/`: what real implementations sent, and the hostile cases of the vectors.
//! Short ones that no fixture has are written here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bursar_core::challenge::json::from_base64;
use serde_json::{Value, json};

use crate::journal::JOURNAL;

type Seeds = Vec<Vec<u8>>;

pub fn json() -> Seeds {
    let mut seeds = x402_v2();
    seeds.extend(texts(&[
        r#"{"a":1,"a":1}"#,
        r#"{"amount":"1","amoun\u0074":"2"}"#,
        r#"[{"a":[null,true,-0.5e-3,"\ud83d\ude00"]}]"#,
        "{}{}",
        "1e999",
    ]));
    seeds.push(format!("{}1{}", "[".repeat(33), "]".repeat(33)).into_bytes());
    seeds
}

pub fn base64() -> Seeds {
    let mut seeds = header_values("payment-required");
    seeds.extend(texts(&["+/+/fw==", "-_-_fw", " e30= ", "e30=e30=", "A"]));
    seeds
}

pub fn x402_v2() -> Seeds {
    header_values("payment-required")
        .iter()
        .filter_map(|value| from_base64(value).ok())
        .collect()
}

pub fn x402_v1() -> Seeds {
    let mut seeds = Seeds::new();
    for file in fixtures("x402") {
        for response in found(&file, "response") {
            seeds.extend(response["body"].as_str().map(Into::into));
        }
    }
    seeds.retain(|body| body.len() > 2);
    seeds
}

pub fn mpp_fields() -> Seeds {
    let mut seeds = Seeds::new();
    for file in fixtures("mpp") {
        seeds.extend(
            found(&file, "wwwAuthenticate")
                .filter_map(Value::as_str)
                .map(Into::into),
        );
        for lines in found(&file, "fieldLines") {
            seeds.extend(
                lines
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(Into::into),
            );
        }
    }
    seeds
}

pub fn mpp_requests() -> Seeds {
    let mut seeds = Seeds::new();
    for file in fixtures("mpp") {
        for request in found(&file, "requestDecoded") {
            seeds.extend((0..3).map(|method| led_by(&[method], request.to_string().as_bytes())));
        }
    }
    let field = String::from_utf8_lossy(&mpp_fields().concat()).into_owned();
    for part in field.split("request=\"").skip(1) {
        let request = part.split('"').next().unwrap_or_default();
        if let Ok(request) = from_base64(request.as_bytes()) {
            seeds.extend((0..3).map(|method| led_by(&[method], &request)));
        }
    }
    seeds
}

/// Heads of the recorded exchanges and of the bad challenges, with their bodies.
pub fn heads() -> Seeds {
    let mut seeds = Seeds::new();
    for file in fixtures("x402").into_iter().chain(fixtures("mpp")) {
        for response in found(&file, "response") {
            let mut head = String::new();
            for (name, value) in pairs(&response["headers"]) {
                head.push_str(&format!("{name}: {value}\n"));
            }
            head.push('\n');
            head.push_str(response["body"].as_str().unwrap_or_default());
            seeds.push(head.into_bytes());
        }
    }
    seeds
}

pub fn resources() -> Seeds {
    let urls = [
        "https://API.Example.com/x?y#z",
        "//api.example.com/x",
        "/data?q=1#f",
        "https://api.example.com\\@evil.example/",
        "https://api.example.com:443@evil.example/",
        "https:api.example.com",
        "http://[::ffff:1.2.3.4]:80/",
        "http://0x7f.1/",
        "https://api.example.com%2eevil.example/",
        "///evil.example/",
        "/\t/evil.example/",
        "mcp://tool/name",
        "api.example.com:8443",
        "https://b\u{fc}cher.example/",
        "https://api.example.com\u{3002}evil.example/",
    ];
    let seeds = urls
        .iter()
        .flat_map(|url| (0..3).map(|kind| led_by(&[kind], url.as_bytes())));
    seeds.collect()
}

pub fn extensions() -> Seeds {
    let mut all: Vec<String> = Vec::new();
    for challenge in x402_v2() {
        if let Ok(challenge) = serde_json::from_slice::<Value>(&challenge)
            && let Some(extensions) = challenge.get("extensions")
        {
            all.push(extensions.to_string());
        }
    }
    all.extend(
        [
            "{}",
            r#"{ "payment-identifier" : {"schema":{}, "info": { "required" :true} } }"#,
            r#"{"payment-identifier":{"info":{}},"eip2612GasSponsoring":{"info":{ "version" : "1" }}}"#,
            r#"{"payment-identifier":{"info":{"id":null}},"eip2612GasSponsoring":{"info":{"nonce":null}}}"#,
            r#"{"eip2612GasSponsoring":{"info":{}},"payment-identifier":{"info":{"a":"}"}}}"#,
        ]
        .map(str::to_owned),
    );
    all.iter()
        .flat_map(|text| [led_by(&[0], text.as_bytes()), led_by(&[1], text.as_bytes())])
        .collect()
}

pub fn credentials() -> Seeds {
    let mut seeds = Seeds::new();
    for file in fixtures("x402").into_iter().chain(fixtures("mpp")) {
        for name in ["headerValue", "authorizationHeader"] {
            seeds.extend(found(&file, name).filter_map(Value::as_str).map(Into::into));
        }
    }
    seeds.extend(texts(&["Payment ", "Payment e30\r\nX: y", "e30="]));
    seeds
}

pub fn bodies() -> Seeds {
    let text = br#"{"x402Version":1,"accepts":[],"error":"payment required"}"#;
    let mut seeds: Seeds = (0..48).map(|first| led_by(&[first], text)).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&[0; 100_000]).expect("memory");
    seeds.push(led_by(&[1], &gzip.finish().expect("memory")));
    // A text of 57 bytes, and 10 MiB of zeros, as the reference encoder writes them.
    for brotli in [
        "GzgAgJwHti06fUEs2rnxA2uRmK29ydKFVzp9CSNDAw45cPv8HmDUao6HZHL3MiqRvWEBCBYNlgI=",
        "y///P/gnAOKxQCD3/i///z/wTwDEYRGA7v0H",
    ] {
        seeds.push(led_by(&[3], &STANDARD.decode(brotli).expect("base64")));
    }
    seeds
}

pub fn receipts() -> Seeds {
    let mut all = Seeds::new();
    for file in fixtures("mpp") {
        all.extend(found(&file, "decoded").map(|receipt| receipt.to_string().into_bytes()));
        for value in found(&file, "value").filter_map(Value::as_str) {
            all.extend(from_base64(value.as_bytes()).ok());
        }
    }
    for name in ["payment-receipt", "payment-response", "x-payment-response"] {
        all.extend(header_values(name).iter().filter_map(|value| from_base64(value).ok()));
    }
    let hash = format!("0x{}", "aB".repeat(32));
    all.extend(texts(&[
        &format!(r#"{{"success":true,"transaction":"{hash}","network":"base"}}"#),
        r#"{"success":true,"transaction":"","amount":"0"}"#,
        &format!(r#"{{"success":false,"transaction":"{hash}","errorReason":"settlement_pending"}}"#),
        r#"{"method":"stripe","reference":"pi_3Abc","status":"success","timestamp":"2026-04-01T12:04:58Z"}"#,
    ]));
    all.iter()
        .flat_map(|receipt| (0..6).map(|rail| led_by(&[rail], receipt)))
        .collect()
}

pub fn statements() -> Seeds {
    bursar_core::challenge::mpp::Statement::ALL
        .iter()
        .map(|statement| {
            let name = statement.code().trim_start_matches("seller-says-");
            let problem = json!({ "type": format!("https://paymentauth.org/problems/{name}"), "status": 402 });
            problem.to_string().into_bytes()
        })
        .collect()
}

pub fn stripe_tokens() -> Seeds {
    let token = |object: &str, status: Value, more: Value| {
        let mut token = json!({
            "id": "spt_1RgaZcFPC5QUO6ZCDVZuVA8q", "object": object, "livemode": false, "status": status,
            "created": 1_751_500_820, "deactivated_at": null, "deactivated_reason": null, "next_action": null,
            "usage_limits": { "currency": "usd", "max_amount": 1000, "expires_at": 1_751_587_220 },
            "usage_details": { "amount_captured": { "currency": "usd", "value": 0 } },
            "seller_details": { "network_business_profile": "profile_test_1" }
        });
        token
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().unwrap_or_default());
        token.to_string().into_bytes()
    };
    let url = json!({ "next_action": { "redirect_to_url": { "url": "https://hooks.stripe.com/3ds?x=1" } } });
    vec![
        token("shared_payment.issued_token", json!("active"), Value::Null),
        token("shared_payment.granted_token", Value::Null, Value::Null),
        token("shared_payment.issued_token", json!("requires_action"), url),
        token(
            "shared_payment.issued_token",
            json!("deactivated"),
            json!({ "deactivated_at": 1_751_500_900, "deactivated_reason": "revoked" }),
        ),
    ]
}

pub fn stripe_errors() -> Seeds {
    let bodies = [
        r#"{"error":{"type":"card_error","code":"card_declined","decline_code":"insufficient_funds"}}"#,
        r#"{"error":{"type":"invalid_request_error","param":"usage_limits[max_amount]","code":"parameter_invalid"}}"#,
        r#"{"error":{"type":"idempotency_error"}}"#,
        "<html>",
    ];
    let statuses = [200, 400, 401, 402, 403, 404, 409, 429, 500];
    with_status(&statuses, &bodies)
}

pub fn bkey() -> Seeds {
    let word = "ab".repeat(32);
    let authorization = json!({
        "from": format!("0x{}", "11".repeat(20)), "to": format!("0x{}", "22".repeat(20)), "value": "10000",
        "validAfter": "0", "validBefore": 1_800_000_060, "nonce": format!("0x{word}"),
        "contractAddress": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "chainId": 84532,
        "signature": format!("0x{word}{word}1b"), "authorizationId": "auth_1"
    });
    let bodies = [
        json!({ "status": "authorized", "authorization": authorization }),
        json!({ "status": "signed", "signedPayload": STANDARD.encode(json!({ "authorization": authorization }).to_string()) }),
        json!({ "status": "pending_approval", "authorizationId": "auth_1", "interval": 2, "expiresIn": 300 }),
        json!({ "status": "authorized", "sptId": "spt_1", "expiresAt": "2027-01-01T00:00:00Z", "amountCents": 125,
            "currency": "usd", "sptCredential": STANDARD.encode(r#"{"sptId":"spt_1"}"#) }),
        json!({ "error": { "code": "limit_exceeded" } }),
        json!({ "error": "expired_token" }),
        json!({ "address": format!("0x{}", "11".repeat(20)), "chainId": 84532,
            "usdcContract": "0x036CbD53842c5426634e7929541eC2318f3dCF7e" }),
    ]
    .map(|body| body.to_string());
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    with_status(&[200, 202, 400, 403, 409, 500], &bodies)
}

pub fn rpc() -> Seeds {
    let word = |byte: &str| format!("0x{}", byte.repeat(32));
    let transfer = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";
    let padded = |byte: &str| format!("0x{}{}", "00".repeat(12), byte.repeat(20));
    let log = json!({
        "address": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "topics": [transfer, padded("11"), padded("22")],
        "data": word("00"), "blockNumber": "0x10", "transactionHash": word("ab"), "logIndex": "0x1", "removed": false
    });
    let results = [
        json!("0x14a34"),
        json!({ "number": "0x10", "hash": word("cd"), "timestamp": "0x6553f100" }),
        json!({ "transactionHash": word("ab"), "blockNumber": "0x10", "status": "0x1", "logs": [log] }),
        json!([log]),
        json!({ "hash": word("ab"), "blockNumber": "0x10", "to": format!("0x{}", "22".repeat(20)), "input": "0x1234" }),
    ];
    let mut seeds = Seeds::new();
    for (question, result) in (0..).zip(&results) {
        let answer = json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string();
        seeds.push(led_by(&[question], answer.as_bytes()));
        seeds.push(led_by(&[question], br#"{"jsonrpc":"2.0","id":1,"result":null}"#));
        seeds.push(led_by(
            &[question | 0x80],
            br#"{"error":{"code":-32005,"message":"slow down"}}"#,
        ));
    }
    seeds
}

pub fn tokens() -> Seeds {
    let vectors = fixture("approvals/jwt.json");
    found(&vectors, "token")
        .filter_map(Value::as_str)
        .map(Into::into)
        .collect()
}

pub fn claims() -> Seeds {
    let mut seeds: Seeds = tokens()
        .iter()
        .filter_map(|token| from_base64(token.split(|byte| *byte == b'.').nth(1)?).ok())
        .collect();
    seeds.sort();
    seeds.dedup();
    seeds
}

pub fn details() -> Seeds {
    let vectors = fixture("approvals/intent_binding.json");
    let sent = &vectors["token_binding"]["pending"]["sent_action_details"];
    let mut seeds: Seeds = found(&vectors, "action_details")
        .map(|repeated| pair(sent, repeated))
        .collect();
    seeds.push(pair(sent, sent));
    let list = json!([{ "type": "payment", "amount": 1250, "list": [1.5, null, { "a": "b" }] }]);
    seeds.push(pair(&list, &list));
    seeds.extend(texts(&[
        "[1250.0]\n[1.25e3]",
        "[{\"a\":1,\"b\":2}]\n[{\"b\":2,\"a\":1}]",
        "[0]\n[-0.0]",
        "[1]\n[2]",
    ]));
    seeds
}

pub fn jwks() -> Seeds {
    let vectors = fixture("approvals/jwks_documents.json");
    found(&vectors, "jwks")
        .map(|document| document.to_string().into_bytes())
        .collect()
}

pub fn ciba_polls() -> Seeds {
    let vectors = fixture("approvals/ciba_poll.json");
    let statuses = [200, 400, 401, 403, 408, 429, 500, 503, 302, 201];
    let answers = found(&vectors, "answers").map(|answers| {
        let lines = answers.as_array().into_iter().flatten().map(|answer| {
            let status = statuses
                .iter()
                .position(|status| answer["status"] == *status)
                .unwrap_or(0);
            let body = answer["body"].as_str().unwrap_or_default().replace('\n', " ");
            led_by(&[u8::try_from(status).unwrap_or(0), 0], body.as_bytes())
        });
        lines.collect::<Seeds>().join(&b'\n')
    });
    answers.collect()
}

pub fn ciba_documents() -> Seeds {
    let documents = [
        (
            0,
            r#"{"auth_req_id":"1c266114-a1be-4252-8ad1-04986c5b9ac1","expires_in":120,"interval":2}"#,
        ),
        (0, r#"{"error":"invalid_binding_message"}"#),
        (1, r#"{"access_token":"t","token_type":"Bearer","expires_in":300}"#),
        (1, r#"{"error":"invalid_client"}"#),
        (2, r#"{"auth_req_id":"one"}"#),
        (
            3,
            concat!(
                r#"{"issuer":"https://api.bkey.id","token_endpoint":"https://api.bkey.id/oauth/token","#,
                r#""backchannel_authentication_endpoint":"https://api.bkey.id/oauth/bc-authorize","#,
                r#""jwks_uri":"https://api.bkey.id/oauth/jwks","#,
                r#""backchannel_token_delivery_modes_supported":["poll"]}"#
            ),
        ),
    ];
    let both = |(kind, text): &(u8, &str)| {
        [
            led_by(&[*kind, 0], text.as_bytes()),
            led_by(&[*kind, 3], text.as_bytes()),
        ]
    };
    documents.iter().flat_map(both).collect()
}

pub fn keyra() -> Seeds {
    let mut seeds = Seeds::new();
    let errors = fixture("approvals/keyra_errors.json");
    for code in found(&errors, "code") {
        seeds.push(led_by(
            &[1],
            json!({ "code": code, "message": "m" }).to_string().as_bytes(),
        ));
    }
    for status in ["pending", "approved", "rejected", "expired", "used"] {
        let answer = json!({
            "status": status, "id": "chl_9k2m", "expiresAt": "2027-01-15T08:00:00Z", "deviceId": "dev_1",
            "attestation": { "sig": "x" }, "action": "payment", "userId": "usr_42", "payload": { "amount": "12.50" }
        });
        seeds.push(led_by(&[0], answer.to_string().as_bytes()));
    }
    let webhooks = fixture("approvals/keyra_webhook.json");
    for body in found(&webhooks, "body_b64").filter_map(Value::as_str) {
        let body = STANDARD.decode(body).expect("base64");
        seeds.extend((2..6).map(|format| led_by(&[format], &body)));
    }
    for header in found(&webhooks, "header").filter_map(Value::as_str) {
        seeds.extend((2..6).map(|format| led_by(&[format], header.as_bytes())));
    }
    seeds
}

/// Records without entries, and with the lines of a journal.
pub fn records() -> Seeds {
    let mut by_payment: Vec<(String, Vec<Value>)> = Vec::new();
    for line in JOURNAL.split(|byte| *byte == b'\n') {
        let Ok(entry) = serde_json::from_slice::<Value>(line) else {
            continue;
        };
        let Some(id) = entry["rid"].as_str().or(entry["id"].as_str()).map(str::to_owned) else {
            continue;
        };
        let leaf = bursar_ledger::text::Digest::leaf(line).to_string();
        let recorded = json!({ "leaf_sha256": leaf, "entry": entry });
        match by_payment.iter_mut().find(|(known, _)| *known == id) {
            Some((_, entries)) => entries.push(recorded),
            None => by_payment.push((id, vec![recorded])),
        }
    }
    let record = |id: &str, entries: &[Value]| {
        let record = json!({ "format": "bursar-approval-1", "id": id, "entries": entries });
        record.to_string().into_bytes()
    };
    let mut seeds: Seeds = by_payment.iter().map(|(id, entries)| record(id, entries)).collect();
    seeds.push(record("019aa05d-5400-7101-8101-010101010101", &[]));
    seeds
}

pub fn hosts() -> Seeds {
    texts(&[
        "Example.COM",
        "example.com.:0443",
        "[2001:DB8::1]:8443",
        "[::ffff:1.2.3.4]:80",
        "127.1:80",
        "0x7f.1:80",
        "2130706433",
        "1.2.3.4.5",
        "foo.0x1F",
        "_dmarc.example.com",
        "xn--bcher-kva.example:443",
        "b\u{fc}cher.example",
        "u@example.com:443",
        "a..b",
        "::1",
        "localhost:",
        "example.com:65536",
        "-a.example",
    ])
}

pub fn hop() -> Seeds {
    let heads = [
        "Connection: close, X-One\nX-One: 1\nKeep-Alive: timeout=5\nTransfer-Encoding: chunked\nContent-Length: 9\n",
        "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: x\n",
        "Connection: upgrade\nUpgrade: websocket\nTE: trailers\nHost: a.example\n",
        "Authorization: Bearer x, Payment e30\nX-Payment: x\nBursar-Payment: x\n",
        "authorization: payment\te30\nConnection: authorization, host, content-length, payment-signature\n",
        "TE: trailers;q=0.5, gzip\nProxy-Authorization: Basic eA==\nSettlement-Overrides: {}\nTrailer: x\n",
        "Connection: \"a, b\"\nA: 1\nProxy-Connection: keep-alive\n",
    ];
    heads
        .iter()
        .flat_map(|head| [led_by(&[0], head.as_bytes()), led_by(&[1], head.as_bytes())])
        .collect()
}

pub fn requests() -> Seeds {
    texts(&[
        "GET /a?b=<c>\"d\" HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nx-one:2\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "\r\nPOST http://h:1?q HTTP/1.0\nContent-Length: 5, 5\n\nhello",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: 1\r\n\r\nrest",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close, x\r\n\r\n",
        "CONNECT h:443 HTTP/1.0\r\n\r\n",
        "GET //\u{fc}#x HTTP/1.1\r\nA:\t1 \r\nB:\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nA : 1\r\n B\r\nC: \u{1}\r\n\r\n",
    ])
}

pub fn answers() -> Seeds {
    let heads = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellorest",
        "HTTP/1.0 200 Alles G\u{fc}t\nA: 1\n 2\nB : \u{1}\nno field\n\nuntil the end",
        "HTTP/1.1 402 Payment Required\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\na\r\n0123456789\r\n0\r\nA: b\r\n\r\n",
        "HTTP/1.1 204\r\nTransfer-Encoding: chunked\r\nX: a\rY: b\r\n\r\n",
        "HTTP/1.1 999 \r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    ];
    heads
        .iter()
        .flat_map(|head| [led_by(&[0], head.as_bytes()), led_by(&[1], head.as_bytes())])
        .collect()
}

pub fn prefer() -> Seeds {
    texts(&[
        "respond-async, wait=10",
        "Wait = \"10\"",
        "wait=5\nwait=9",
        "return=representation; wait=3, handling=lenient",
        "wait=99999999999",
        "wait=-1",
        "RESPOND-ASYNC;x=1",
        "a=\"b, wait=3\"",
    ])
}

pub fn via() -> Seeds {
    texts(&[
        "1.0 fred, 1.1 p.example.net (bursar-0)",
        "2 a\nHTTP/1.1 b (c, d)",
        "1.1 bursar-0011223344556677",
        "(,",
    ])
}

/// A byte that says where the hello is cut, and a hello: with a name, without extensions, with two names.
pub fn tls_hellos() -> Seeds {
    let hello = |extensions: &[u8]| {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
        if !extensions.is_empty() {
            body.extend([0, extensions.len() as u8]);
            body.extend(extensions);
        }
        let mut bytes = vec![20, 22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
        bytes.extend(body);
        bytes
    };
    let name = [
        0, 0, 0, 14, 0, 12, 0, 0, 9, b'a', b'.', b'e', b'x', b'a', b'm', b'p', b'l', b'e',
    ];
    // `signature_algorithms`, without which rustls reads none.
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    vec![
        hello(&[&name[..], &signatures].concat()),
        hello(&signatures),
        hello(&[]),
        hello(&[&name[..], &name].concat()),
    ]
}

pub fn proxy_credentials() -> Seeds {
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text)).into_bytes();
    let mut seeds = vec![
        basic("research:bur_token"),
        basic("a:"),
        basic(":b"),
        basic("no colon"),
        basic("a:b:c"),
    ];
    seeds.extend(texts(&[
        "basic  YTpi ",
        "Bearer x",
        "Basic !",
        "Basic YTp=",
        "BASIC\tYTpi",
    ]));
    seeds
}

pub fn entries() -> Seeds {
    let mut seeds: Seeds = JOURNAL.split(|byte| *byte == b'\n').map(Into::into).collect();
    let vectors = fixture("audit/entries.json");
    seeds.extend(found(&vectors, "utf8").filter_map(Value::as_str).map(Into::into));
    seeds.retain(|line| !line.is_empty());
    seeds
}

pub fn journals() -> Seeds {
    let end = |lines: usize| {
        let ends = JOURNAL.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        ends.map(|(at, _)| at + 1).nth(lines - 1).expect("a line")
    };
    let mut two = JOURNAL.to_vec();
    two.insert(end(5), 0);
    let torn = JOURNAL[..JOURNAL.len() - 40].to_vec();
    let filled = [JOURNAL, &[b'\n'; 64]].concat();
    vec![JOURNAL.to_vec(), JOURNAL[..end(3)].to_vec(), two, torn, filled]
}

pub fn changes() -> Seeds {
    vec![
        vec![],
        vec![0, 0x1a, 0x20, 0, 0],
        vec![1, 0x02, 0, 200, 0],
        vec![2, 0x02, 0, 3, b'\n'],
        vec![3, 0x1a, 0, 9, 0],
        vec![4, 0x19, 0xf0, 0, 1],
        vec![5, 0, 0, 255, 0, 6, 0, 0, 1, 0],
    ]
}

pub fn notes() -> Seeds {
    let vectors = fixture("audit/checkpoints.json");
    let mut seeds: Seeds = found(&vectors, "note")
        .filter_map(Value::as_str)
        .map(Into::into)
        .collect();
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/ledger/v1/audit/checkpoint");
    seeds.push(fs::read(place).expect("a fixture"));
    seeds
}

pub fn note_texts() -> Seeds {
    let name = "fuzz.example/log";
    let mut seeds = Seeds::new();
    for note in notes() {
        let text = String::from_utf8(note).expect("text");
        let (_, rest) = text.split_once('\n').expect("a line");
        let body = rest.split("\n\n").next().unwrap_or_default();
        seeds.push(format!("{name}\n{body}\n").into_bytes());
    }
    seeds.push(format!("{name}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nmore\n").into_bytes());
    seeds
}

/// What `bursar retain` would write for the journal of the fixtures, if some of it were old.
pub fn pruned() -> Seeds {
    let place = tempfile::tempdir().expect("a directory");
    let audit = place.path();
    let mut lines: Vec<&[u8]> = JOURNAL.split_inclusive(|byte| *byte == b'\n').collect();
    let later = lines.split_off(10).concat();
    fs::write(audit.join(bursar_ledger::scan::segment_name(0)), lines.concat()).expect("room");
    fs::write(audit.join(bursar_ledger::scan::segment_name(10)), later).expect("room");
    let late: jiff::Timestamp = "2100-01-01T00:00:00Z".parse().expect("a time");
    let plan = bursar_ledger::pruned::plan(audit, late, late, Path::new("elsewhere")).expect("a journal");
    let mut seeds: Seeds = plan.into_iter().map(|plan| plan.text).collect();
    seeds.extend(texts(&[r#"{"first_seq":0}"#, "{}"]));
    seeds
}

pub fn manifests() -> Seeds {
    let manifest = |files: Value| {
        let manifest = json!({
            "format": 2, "bursar": "0.1.0", "made_at": "2026-11-30T10:00:00Z", "entries": 18, "tip": "00".repeat(32),
            "keys": true, "left_out": ["wallet.key"], "files": files
        });
        manifest.to_string().into_bytes()
    };
    let hash = "ab".repeat(32);
    [
        "audit/seg-00000000000000000000.jsonl",
        "../limits.toml",
        "/etc/passwd",
        "a/./b",
        "",
        "a/../../b",
    ]
    .map(|file| manifest(json!({ file: hash })))
    .into()
}

fn texts(texts: &[&str]) -> Seeds {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn led_by(first: &[u8], rest: &[u8]) -> Vec<u8> {
    [first, rest].concat()
}

fn pair(sent: &Value, repeated: &Value) -> Vec<u8> {
    format!("{sent}\n{repeated}").into_bytes()
}

/// Every body under every status, as two bytes that [`crate::services`] reads.
fn with_status(statuses: &[u16], bodies: &[&str]) -> Seeds {
    let each = statuses.iter().flat_map(|status| {
        let first = (status - 100).to_be_bytes();
        bodies.iter().map(move |body| led_by(&first, body.as_bytes()))
    });
    each.collect()
}

/// The values of one header, wherever it stands in the fixtures of x402 and MPP.
fn header_values(wanted: &str) -> Seeds {
    let mut seeds = Seeds::new();
    for file in fixtures("x402").into_iter().chain(fixtures("mpp")) {
        for headers in found(&file, "headers") {
            let values = pairs(headers)
                .into_iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            seeds.extend(values.map(|(_, value)| value.into_bytes()));
        }
    }
    seeds
}

/// Headers are written as an object or as a list of pairs.
fn pairs(headers: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match headers {
        Value::Object(members) => {
            let each = members.iter().flat_map(|(name, value)| {
                let all = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                all.into_iter()
                    .filter_map(move |value| Some((name.clone(), text(&value)?)))
            });
            each.collect()
        }
        Value::Array(lines) => lines
            .iter()
            .filter_map(|line| Some((text(&line[0])?, text(&line[1])?)))
            .collect(),
        _ => Vec::new(),
    }
}

/// Every member of that name, at any depth.
fn found<'v>(value: &'v Value, name: &str) -> std::vec::IntoIter<&'v Value> {
    let mut all = Vec::new();
    collect(value, name, &mut all);
    all.into_iter()
}

fn collect<'v>(value: &'v Value, name: &str, all: &mut Vec<&'v Value>) {
    match value {
        Value::Object(members) => {
            all.extend(members.get(name));
            members.values().for_each(|member| collect(member, name, all));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, name, all)),
        _ => {}
    }
}

fn fixture(path: &str) -> Value {
    let path = place(path);
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("a fixture is JSON")
}

/// Every JSON file of a directory of fixtures, in the order of their names.
fn fixtures(directory: &str) -> Vec<Value> {
    let files = fs::read_dir(place(directory)).expect("fixtures");
    let mut names: Vec<String> = files
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .collect();
    names.retain(|name| name.ends_with(".json"));
    names.sort();
    names
        .iter()
        .map(|name| fixture(&format!("{directory}/{name}")))
        .collect()
}

fn place(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(path)
}
