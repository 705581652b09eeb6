//! Decodes one content coding of a 402 body, with a limit on the output (threat 2.8).
//!
//! The agent's `Accept-Encoding` is forwarded unchanged, so a challenge may arrive compressed. The agent still gets the
//! original bytes; the decoded copy is only searched for offers. A 402 that cannot be decoded is passed on unpaid.

use std::io::{self, Read};

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// The most bytes of a 402 body that are read, counted after decoding (R34).
pub(crate) const MAX_DECODED: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the content coding is not one of gzip, deflate, br")]
    UnknownCoding,
    #[error("the body is encoded more than once")]
    Layered,
    #[error("the decoded body is longer than 64 KiB")]
    TooLong,
    #[error("the body is not valid in its content coding")]
    Damaged,
}

impl Coding {
    /// The coding that all `Content-Encoding` lines together name; `identity` adds nothing.
    pub fn of(headers: &HeaderMap) -> Result<Self, DecodeError> {
        let mut coding = Self::Identity;
        for line in headers.get_all(CONTENT_ENCODING) {
            let line = line.to_str().map_err(|_| DecodeError::UnknownCoding)?;
            for name in line.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let next = Self::named(name).ok_or(DecodeError::UnknownCoding)?;
                coding = match (coding, next) {
                    (Self::Identity, next) => next,
                    (coding, Self::Identity) => coding,
                    _ => return Err(DecodeError::Layered),
                };
            }
        }
        Ok(coding)
    }

    fn named(name: &str) -> Option<Self> {
        const NAMES: [(&str, Coding); 5] = [
            ("identity", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("x-gzip", Coding::Gzip),
            ("deflate", Coding::Deflate),
            ("br", Coding::Brotli),
        ];
        NAMES
            .iter()
            .find_map(|(known, coding)| known.eq_ignore_ascii_case(name).then_some(*coding))
    }
}

/// The decoded body, at most `MAX_DECODED` bytes. Beyond that, memory is needed only for the decoder's window: 32
/// KiB, or for brotli what the stream declares, at most 16 MiB, of which only the written part is touched.
pub fn decode(coding: Coding, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    match coding {
        Coding::Identity if body.len() > MAX_DECODED => Err(DecodeError::TooLong),
        Coding::Identity => Ok(body.to_vec()),
        Coding::Gzip => bounded(MultiGzDecoder::new(body)),
        Coding::Brotli => bounded(Decompressor::new(body, 4 << 10)),
        // RFC 9110 §8.4.1.2 means zlib, but some servers send raw deflate, and a few of those streams look like zlib.
        Coding::Deflate => match bounded(ZlibDecoder::new(body)) {
            Err(DecodeError::Damaged) => bounded(DeflateDecoder::new(body)),
            decoded => decoded,
        },
    }
}

fn bounded(decoder: impl Read) -> Result<Vec<u8>, DecodeError> {
    let mut decoded = Vec::new();
    let limit = u64::try_from(MAX_DECODED).unwrap_or(u64::MAX) + 1;
    match decoder.take(limit).read_to_end(&mut decoded) {
        Ok(_) if decoded.len() > MAX_DECODED => Err(DecodeError::TooLong),
        Ok(_) => Ok(decoded),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Err(DecodeError::TooLong),
        Err(_) => Err(DecodeError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = br#"{"x402Version":1,"accepts":[],"error":"payment required"}"#;
    /// `TEXT` and 10 MiB of zeros, compressed by the reference encoder (Node's `zlib.brotliCompressSync`), in base64.
    const BROTLI: &str = "GzgAgJwHti06fUEs2rnxA2uRmK29ydKFVzp9CSNDAw45cPv8HmDUao6HZHL3MiqRvWEBCBYNlgI=";
    const BROTLI_BOMB: &str = "y///P/gnAOKxQCD3/i///z/wTwDEYRGA7v0H";

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(data: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn base64(text: &str) -> Vec<u8> {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.decode(text).unwrap()
    }

    #[test]
    fn each_coding() {
        for (coding, body) in [
            (Coding::Identity, TEXT.to_vec()),
            (Coding::Gzip, gzip(TEXT)),
            (Coding::Gzip, [gzip(&TEXT[..10]), gzip(&TEXT[10..])].concat()),
            (Coding::Deflate, zlib(TEXT)),
            (Coding::Deflate, deflate(TEXT)),
            (Coding::Brotli, base64(BROTLI)),
        ] {
            assert_eq!(decode(coding, &body).as_deref(), Ok(TEXT), "{coding:?}");
        }
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let zeros = vec![0; 10 << 20];
        for (coding, body) in [
            (Coding::Identity, zeros[..MAX_DECODED + 1].to_vec()),
            (Coding::Gzip, gzip(&zeros)),
            (Coding::Deflate, zlib(&zeros)),
            (Coding::Deflate, deflate(&zeros)),
            (Coding::Brotli, base64(BROTLI_BOMB)),
        ] {
            assert_eq!(decode(coding, &body), Err(DecodeError::TooLong), "{coding:?}");
        }
        let exact = &zeros[..MAX_DECODED];
        assert_eq!(decode(Coding::Gzip, &gzip(exact)).unwrap(), exact);
        assert_eq!(
            decode(Coding::Gzip, &gzip(&zeros[..MAX_DECODED + 1])),
            Err(DecodeError::TooLong)
        );
    }

    #[test]
    fn no_more_than_the_limit_is_read() {
        /// Never ends, and counts how much was read.
        struct Endless(usize);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += buffer.len();
                Ok(buffer.len())
            }
        }
        let mut endless = Endless(0);
        assert_eq!(bounded(&mut endless), Err(DecodeError::TooLong));
        assert_eq!(endless.0, MAX_DECODED + 1);
    }

    #[test]
    fn cut_or_wrong_bodies_are_damaged() {
        for (coding, body) in [
            (Coding::Gzip, gzip(TEXT)),
            (Coding::Deflate, zlib(TEXT)),
            (Coding::Brotli, base64(BROTLI)),
        ] {
            assert_eq!(
                decode(coding, &body[..body.len() - 5]),
                Err(DecodeError::Damaged),
                "{coding:?}"
            );
            assert_eq!(decode(coding, TEXT), Err(DecodeError::Damaged), "{coding:?}");
        }
    }

    #[test]
    fn codings_of_a_header() {
        let of = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(line));
            }
            Coding::of(&headers)
        };
        assert_eq!(of(&[]), Ok(Coding::Identity));
        assert_eq!(of(&["identity"]), Ok(Coding::Identity));
        assert_eq!(of(&["GZip"]), Ok(Coding::Gzip));
        assert_eq!(of(&["identity, x-gzip", ""]), Ok(Coding::Gzip));
        assert_eq!(of(&["deflate"]), Ok(Coding::Deflate));
        assert_eq!(of(&["br"]), Ok(Coding::Brotli));
        assert_eq!(of(&["zstd"]), Err(DecodeError::UnknownCoding));
        assert_eq!(of(&["gzip, br"]), Err(DecodeError::Layered));
        assert_eq!(of(&["gzip", "gzip"]), Err(DecodeError::Layered));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli] {
                if let Ok(decoded) = decode(coding, &body) {
                    prop_assert!(decoded.len() <= MAX_DECODED);
                }
            }
        }
    }
}
