//! Headers from published clients, byte for byte, checked by the sandbox, so that its rules do not rest on the tests'
//! own payer alone. Key, clock and nonce are those of the x402 vectors (clock 1760000000).

use http::{HeaderMap, HeaderValue};

use super::*;
use crate::catalog::Version;
use crate::token::{Token, TokenError};
use crate::verify::{Advertised, Presented, Refusal};

/// Vector v1-exact-base-sepolia-legacy-lib: x402 1.2.0.
const V1_LEGACY: &str = concat!(
    "eyJ4NDAyVmVyc2lvbiI6MSwic2NoZW1lIjoiZXhhY3QiLCJuZXR3b3JrIjoiYmFzZS1zZXBvbGlhIiwicGF5bG9hZCI6eyJzaWduYXR1cmUi",
    "OiIweGEyMDk2OWVhZjFjMTRiZDlmOWQzNzdlMjhhN2UwOTY1NjhiNTYyMGJmNzRiNzJiNDRhZWVlYWNhYTQwZjdhZDY2ZGEyOTNiOTJlOWEx",
    "NTdlZDY2ZTJhMTZjNDM5MzhkZjY2NjYxZjQ2OWY2ZDc5YTFlYTk3MzljY2RmODNhZjgxMWIiLCJhdXRob3JpemF0aW9uIjp7ImZyb20iOiIw",
    "eGYzOUZkNmU1MWFhZDg4RjZGNGNlNmFCODgyNzI3OWNmZkZiOTIyNjYiLCJ0byI6IjB4MjA5NjkzQmM2YWZjMEM1MzI4YkEzNkZhRjAzQzUx",
    "NEVGMzEyMjg3QyIsInZhbHVlIjoiMTAwMDAiLCJ2YWxpZEFmdGVyIjoiMTc1OTk5OTQwMCIsInZhbGlkQmVmb3JlIjoiMTc2MDAwMDA2MCIs",
    "Im5vbmNlIjoiMHhmMzc0NjYxM2MyZDkyMGI1ZmRhYmMwODU2ZjJhZWIyZDRmODhlZTYwMzdiOGNjNWQwNGE3MWE0NDYyZjEzNDgwIn19fQ==",
);

/// Vector v2-exact-eip3009-base-sepolia: @x402/fetch 2.27.0.
const V2_MINIMAL: &str = concat!(
    "eyJ4NDAyVmVyc2lvbiI6MiwicGF5bG9hZCI6eyJhdXRob3JpemF0aW9uIjp7ImZyb20iOiIweGYzOUZkNmU1MWFhZDg4RjZGNGNlNmFCODgy",
    "NzI3OWNmZkZiOTIyNjYiLCJ0byI6IjB4MjA5NjkzQmM2YWZjMEM1MzI4YkEzNkZhRjAzQzUxNEVGMzEyMjg3QyIsInZhbHVlIjoiMTAwMDAi",
    "LCJ2YWxpZEFmdGVyIjoiMCIsInZhbGlkQmVmb3JlIjoiMTc2MDAwMDA2MCIsIm5vbmNlIjoiMHhmMzc0NjYxM2MyZDkyMGI1ZmRhYmMwODU2",
    "ZjJhZWIyZDRmODhlZTYwMzdiOGNjNWQwNGE3MWE0NDYyZjEzNDgwIn0sInNpZ25hdHVyZSI6IjB4NmE1Nzg2NWJlZTNmN2Q3ZTU2YmUwYzgz",
    "MGE5ZGVkZjdiZjk1NTFjNDEyNDIwMmI0YTdiYzgyNWFlYmUyM2ZmZjJkZDE0Y2ZiNTVjYjc1Mjk4MjUwY2UxMzlmM2VjYzAxZGMwNTc5NWU0",
    "OGVjNzlmYWE2Yjg2MzY0MWY1Yjg2NmIxYiJ9LCJyZXNvdXJjZSI6eyJ1cmwiOiJodHRwczovL2FwaS5leGFtcGxlLmNvbS9wcmVtaXVtLWRh",
    "dGEiLCJkZXNjcmlwdGlvbiI6IkFjY2VzcyB0byBwcmVtaXVtIG1hcmtldCBkYXRhIiwibWltZVR5cGUiOiJhcHBsaWNhdGlvbi9qc29uIn0s",
    "ImFjY2VwdGVkIjp7InNjaGVtZSI6ImV4YWN0IiwibmV0d29yayI6ImVpcDE1NTo4NDUzMiIsImFtb3VudCI6IjEwMDAwIiwiYXNzZXQiOiIw",
    "eDAzNkNiRDUzODQyYzU0MjY2MzRlNzkyOTU0MWVDMjMxOGYzZENGN2UiLCJwYXlUbyI6IjB4MjA5NjkzQmM2YWZjMEM1MzI4YkEzNkZhRjAz",
    "QzUxNEVGMzEyMjg3QyIsIm1heFRpbWVvdXRTZWNvbmRzIjo2MCwiZXh0cmEiOnsibmFtZSI6IlVTREMiLCJ2ZXJzaW9uIjoiMiJ9fX0=",
);

/// Vector v2-exact-payment-identifier-builder-code: @x402/fetch 2.27.0, with an identifier added to the echo.
const V2_IDENTIFIED: &str = concat!(
    "eyJ4NDAyVmVyc2lvbiI6MiwicGF5bG9hZCI6eyJhdXRob3JpemF0aW9uIjp7ImZyb20iOiIweGYzOUZkNmU1MWFhZDg4RjZGNGNlNmFCODgy",
    "NzI3OWNmZkZiOTIyNjYiLCJ0byI6IjB4MjA5NjkzQmM2YWZjMEM1MzI4YkEzNkZhRjAzQzUxNEVGMzEyMjg3QyIsInZhbHVlIjoiMTAwMDAi",
    "LCJ2YWxpZEFmdGVyIjoiMCIsInZhbGlkQmVmb3JlIjoiMTc2MDAwMDA2MCIsIm5vbmNlIjoiMHhmMzc0NjYxM2MyZDkyMGI1ZmRhYmMwODU2",
    "ZjJhZWIyZDRmODhlZTYwMzdiOGNjNWQwNGE3MWE0NDYyZjEzNDgwIn0sInNpZ25hdHVyZSI6IjB4NmE1Nzg2NWJlZTNmN2Q3ZTU2YmUwYzgz",
    "MGE5ZGVkZjdiZjk1NTFjNDEyNDIwMmI0YTdiYzgyNWFlYmUyM2ZmZjJkZDE0Y2ZiNTVjYjc1Mjk4MjUwY2UxMzlmM2VjYzAxZGMwNTc5NWU0",
    "OGVjNzlmYWE2Yjg2MzY0MWY1Yjg2NmIxYiJ9LCJleHRlbnNpb25zIjp7InBheW1lbnQtaWRlbnRpZmllciI6eyJpbmZvIjp7InJlcXVpcmVk",
    "Ijp0cnVlLCJpZCI6InBheV83ZDVkNzQ3YmUxNjBlMjgwNTA0YzA5OWQ5ODRiY2ZlMCJ9LCJzY2hlbWEiOnsiJHNjaGVtYSI6Imh0dHBzOi8v",
    "anNvbi1zY2hlbWEub3JnL2RyYWZ0LzIwMjAtMTIvc2NoZW1hIiwidHlwZSI6Im9iamVjdCIsInByb3BlcnRpZXMiOnsicmVxdWlyZWQiOnsi",
    "dHlwZSI6ImJvb2xlYW4ifSwiaWQiOnsidHlwZSI6InN0cmluZyIsIm1pbkxlbmd0aCI6MTYsIm1heExlbmd0aCI6MTI4LCJwYXR0ZXJuIjoi",
    "XlthLXpBLVowLTlfLV0rJCJ9fSwicmVxdWlyZWQiOlsicmVxdWlyZWQiXX19LCJidWlsZGVyLWNvZGUiOnsiaW5mbyI6eyJhIjoic2VsbGVy",
    "X2FwcCIsInMiOlsiYWdlbnRfcHJveHkiLCJzZWxsZXJfc2RrIl19LCJzY2hlbWEiOnt9fX0sInJlc291cmNlIjp7InVybCI6Imh0dHBzOi8v",
    "YXBpLmV4YW1wbGUuY29tL3ByZW1pdW0tZGF0YSIsImRlc2NyaXB0aW9uIjoiQWNjZXNzIHRvIHByZW1pdW0gbWFya2V0IGRhdGEiLCJtaW1l",
    "VHlwZSI6ImFwcGxpY2F0aW9uL2pzb24ifSwiYWNjZXB0ZWQiOnsic2NoZW1lIjoiZXhhY3QiLCJuZXR3b3JrIjoiZWlwMTU1Ojg0NTMyIiwi",
    "YW1vdW50IjoiMTAwMDAiLCJhc3NldCI6IjB4MDM2Q2JENTM4NDJjNTQyNjYzNGU3OTI5NTQxZUMyMzE4ZjNkQ0Y3ZSIsInBheVRvIjoiMHgy",
    "MDk2OTNCYzZhZmMwQzUzMjhiQTM2RmFGMDNDNTE0RUYzMTIyODdDIiwibWF4VGltZW91dFNlY29uZHMiOjYwLCJleHRyYSI6eyJuYW1lIjoi",
    "VVNEQyIsInZlcnNpb24iOiIyIn19fQ==",
);

/// What the seller in the vectors advertised.
fn advertised(version: Version, extensions: Option<Value>) -> Advertised {
    let pay_to = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
    let mut requirement = json!({
        "scheme": "exact",
        "network": version.network(),
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "payTo": pay_to,
        "maxTimeoutSeconds": 60,
        "extra": { "name": "USDC", "version": "2" },
    });
    if version == Version::V2 {
        requirement["amount"] = "10000".into();
    }
    Advertised {
        version,
        amount: Atoms::new(10_000),
        pay_to: pay_to.parse().unwrap(),
        requirement,
        resource: json!({
            "url": "https://api.example.com/premium-data",
            "description": "Access to premium market data",
            "mimeType": "application/json",
        }),
        extensions,
    }
}

/// Reads and verifies `header`, `later` seconds after the vectors' clock.
fn judged(header: &str, advertised: &Advertised, later: i64) -> Result<Presented, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(
        advertised.version.payment_header(),
        HeaderValue::from_str(header).unwrap(),
    );
    let presented = Presented::read(&headers, advertised).unwrap()?;
    let now = Timestamp::from_second(NOW as i64 + later).unwrap();
    presented
        .verify(advertised, &Token::new(Atoms::new(10_000)), now)
        .map(|()| presented)
}

#[test]
fn headers_of_published_clients_are_good_as_long_as_they_say() {
    for (header, version) in [(V1_LEGACY, Version::V1), (V2_MINIMAL, Version::V2)] {
        let advertised = advertised(version, None);
        let presented = judged(header, &advertised, 0).unwrap();
        assert_eq!(
            presented.authorization.from.to_checksum(None),
            "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
        );
        assert!(judged(header, &advertised, 54).is_ok());
        let expired = judged(header, &advertised, 55).unwrap_err();
        assert_eq!(expired, Refusal::Token(TokenError::Expired));
    }
}

#[test]
fn the_reference_clients_echo_of_extensions_is_taken_with_its_additions() {
    let challenge = json!({
        "payment-identifier": {
            "info": { "required": true },
            "schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {
                    "required": { "type": "boolean" },
                    "id": {
                        "type": "string", "minLength": 16, "maxLength": 128,
                        "pattern": "^[a-zA-Z0-9_-]+$",
                    },
                },
                "required": ["required"],
            },
        },
    });
    let presented = judged(V2_IDENTIFIED, &advertised(Version::V2, Some(challenge)), 0).unwrap();
    assert_eq!(
        presented.identifier.as_deref(),
        Some("pay_7d5d747be160e280504c099d984bcfe0")
    );
}
