//! `digest`: the only request body that a challenge is for (MPP §9.3).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Reads the SHA-256 of a list of digests, as in RFC 9530: `sha-256=:BASE64:, sha-512=:BASE64:`. Servers also write one
/// without the colons. `None` for anything else: a challenge is not paid if its digest cannot be checked. Two different
/// ones for SHA-256 cannot be either; what other algorithms say does not matter (R75).
pub(super) fn body_sha256(text: &str) -> Option<[u8; 32]> {
    let members = text.split(',').map(|member| member.trim_matches([' ', '\t']));
    let ours = members.filter_map(|member| member.strip_prefix("sha-256="));
    let mut read = ours.map(one);
    let first = read.next()??;
    read.all(|other| other == Some(first)).then_some(first)
}

fn one(value: &str) -> Option<[u8; 32]> {
    let inner = match value.strip_prefix(':') {
        Some(rest) => rest.strip_suffix(':')?,
        None => value,
    };
    STANDARD.decode(inner).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn both_forms_of_the_vectors_are_read() {
        let fixture: Value =
            serde_json::from_str(include_str!("../../../../../fixtures/mpp/body_digest.json")).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 3);
        for case in cases {
            let body: [u8; 32] = Sha256::digest(case["bodyUtf8"].as_str().unwrap()).into();
            for form in ["rfc9530", "bare"] {
                let text = case[form].as_str().unwrap();
                assert_eq!(body_sha256(text), Some(body), "{text}");
                assert!(mpp::body_digest::verify(
                    text,
                    case["bodyUtf8"].as_str().unwrap().as_bytes()
                ));
            }
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let good = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        for bad in [
            String::new(),
            "sha-256".to_owned(),
            "sha-256=".to_owned(),
            "sha-256=::".to_owned(),
            format!("sha-512={good}"),
            format!("SHA-256={good}"),
            format!("sha-256=:{good}"),
            format!("sha-256={good}:"),
            format!("sha-512=:{good}:, md5=:{good}:"),
            format!("sha-256=:{good}:, sha-256=:{}:", STANDARD.encode([7; 32])),
            format!("sha-256=:{good}:, sha-256=none"),
            format!("sha-256=:{good}:; sha-512=:{good}:"),
            format!("xsha-256=:{good}:"),
            format!("sha-256={}", &good[4..]),
        ] {
            assert_eq!(body_sha256(&bad), None, "{bad}");
        }
    }

    #[test]
    fn among_several_algorithms_only_sha_256_counts() {
        let good = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let empty: [u8; 32] = Sha256::digest("").into();
        for text in [
            format!("sha-256=:{good}:, sha-512=:AAAA:"),
            format!("sha-512=:AAAA:,sha-256=:{good}:"),
            format!("md5=nonsense, sha-256={good} ,\tid-sha-256=:AAAA:"),
            format!("sha-256=:{good}:, sha-256={good}"),
        ] {
            assert_eq!(body_sha256(&text), Some(empty), "{text}");
        }
    }
}
