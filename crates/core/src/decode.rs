//! Decodes one content coding of a 402 body, with a limit on the output (threat 2.8).
//!
//! The agent's `Accept-Encoding` is forwarded unchanged, so a challenge may arrive compressed. The agent still gets the
//! original bytes; the decoded copy is only searched for offers. A 402 that cannot be decoded is passed on unpaid.

use std::io::{self, Read};

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// The most bytes of a 402 body that are read, counted after decoding (R34).
pub(crate) const MAX_DECODED: usize = 64 << 10;
/// The largest window of zstd that is accepted: what every receiver must support (RFC 9659), and what Caddy uses.
const ZSTD_WINDOW: u64 = 8 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the content coding is not one of gzip, deflate, br, zstd")]
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
        const NAMES: [(&str, Coding); 6] = [
            ("identity", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("x-gzip", Coding::Gzip),
            ("deflate", Coding::Deflate),
            ("br", Coding::Brotli),
            ("zstd", Coding::Zstd),
        ];
        NAMES
            .iter()
            .find_map(|(known, coding)| known.eq_ignore_ascii_case(name).then_some(*coding))
    }
}

/// The decoded body, at most `MAX_DECODED` bytes. Beyond that, memory is needed only for the decoder's window: 32
/// KiB, or what the stream declares: for brotli at most 16 MiB, of which only the written part is touched, for zstd at most
/// 8 MiB.
pub fn decode(coding: Coding, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    match coding {
        Coding::Identity if body.len() > MAX_DECODED => Err(DecodeError::TooLong),
        Coding::Identity => Ok(body.to_vec()),
        Coding::Gzip => bounded(MultiGzDecoder::new(body)),
        Coding::Brotli => bounded(Decompressor::new(body, 4 << 10)),
        Coding::Zstd => bounded(ZstdFrames {
            rest: body,
            frame: None,
        }),
        // RFC 9110 §8.4.1.2 means zlib, but some servers send raw deflate, and a few of those streams look like zlib.
        Coding::Deflate => match bounded(ZlibDecoder::new(body)) {
            Err(DecodeError::Damaged) => bounded(DeflateDecoder::new(body)),
            decoded => decoded,
        },
    }
}

/// One or more zstd frames, of which some may be there to be skipped (RFC 8878 §3.1).
struct ZstdFrames<'b> {
    /// What follows the frame that is being decoded.
    rest: &'b [u8],
    frame: Option<StreamingDecoder<&'b [u8], FrameDecoder>>,
}

impl ZstdFrames<'_> {
    fn begin_frame(&mut self) -> io::Result<()> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        match StreamingDecoder::new_with_decoder(self.rest, decoder) {
            Ok(frame) => self.frame = Some(frame),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                // Magic number and length, four bytes each, then the content.
                let after = usize::try_from(length)
                    .ok()
                    .and_then(|length| self.rest.get(8 + length..));
                self.rest = after.ok_or(io::ErrorKind::UnexpectedEof)?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(())
    }
}

impl Read for ZstdFrames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                self.rest = frame.get_ref();
                self.frame = None;
            }
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.begin_frame()?;
        }
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

    /// `TEXT` as it is, `TEXT` 40 times, and 10 MiB of zeros, by the reference encoder (`zstd -19`, version 1.5.4). The last
    /// one declares a window of 8 MiB.
    const ZSTD: &str =
        "KLUv/QRoyQEAeyJ4NDAyVmVyc2lvbiI6MSwiYWNjZXB0cyI6W10sImVycm9yIjoicGF5bWVudCByZXF1aXJlZCJ9VUq4Ig==";
    const ZSTD_40: &str =
        "KLUv/QRo9QEAkgMNEaBvoMmShwJokwQwLx1F929MuZl/q9If0OfuqtimH/57h4RMTxp9LdVhmH6wzfdDRLGNAwEAyQruKyjxg7gx";
    const ZSTD_BOMB: &str = "KLUv/QRoTAAACAABAPz/ORACAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIA\
        EAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIA\
        EAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIA\
        EAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAwAQAHCb\
        OFE=";

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
            (Coding::Zstd, base64(ZSTD)),
        ] {
            assert_eq!(decode(coding, &body).as_deref(), Ok(TEXT), "{coding:?}");
        }
        assert_eq!(decode(Coding::Zstd, &base64(ZSTD_40)), Ok(TEXT.repeat(40)));
    }

    /// Magic number and length of content that is to be skipped.
    fn skipped(length: u32, content: &[u8]) -> Vec<u8> {
        [&0x184D_2A53_u32.to_le_bytes()[..], &length.to_le_bytes(), content].concat()
    }

    #[test]
    fn several_frames_of_zstd_are_one_body() {
        let (one, forty) = (base64(ZSTD), base64(ZSTD_40));
        let frames = [
            &skipped(3, b"abc")[..],
            &one,
            &skipped(0, b""),
            &forty,
            &skipped(1, b"z"),
        ]
        .concat();
        assert_eq!(decode(Coding::Zstd, &frames), Ok(TEXT.repeat(41)));
        assert_eq!(decode(Coding::Zstd, b"").as_deref(), Ok(&b""[..]));
        for bad in [
            [&one[..], b"x"].concat(),
            [&one[..], &skipped(4, b"abc")].concat(),
            skipped(u32::MAX, b"abc"),
        ] {
            assert_eq!(decode(Coding::Zstd, &bad), Err(DecodeError::Damaged));
        }
        let many = base64(ZSTD_BOMB).repeat(100);
        assert_eq!(decode(Coding::Zstd, &many), Err(DecodeError::TooLong));
    }

    #[test]
    fn a_window_beyond_what_all_receivers_have_is_refused_before_memory_is_taken() {
        // A header, with a window of 2^(10 + exponent) bytes, and a last block of one byte, repeated.
        let frame = |exponent: u8, count: u32| {
            let block = (count << 3) | 0b011;
            [
                &0xFD2F_B528_u32.to_le_bytes()[..],
                &[0, exponent << 3],
                &block.to_le_bytes()[..3],
                b" ",
            ]
            .concat()
        };
        assert_eq!(decode(Coding::Zstd, &frame(13, 5)).as_deref(), Ok(&b"     "[..]));
        for exponent in 14..=31 {
            assert_eq!(
                decode(Coding::Zstd, &frame(exponent, 5)),
                Err(DecodeError::Damaged),
                "{exponent}"
            );
        }
        // No block is larger than 128 KiB.
        assert_eq!(decode(Coding::Zstd, &frame(13, 131_073)), Err(DecodeError::Damaged));
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
            (Coding::Zstd, base64(ZSTD_BOMB)),
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
            (Coding::Zstd, base64(ZSTD_40)),
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
        assert_eq!(of(&["ZSTD"]), Ok(Coding::Zstd));
        assert_eq!(of(&["compress"]), Err(DecodeError::UnknownCoding));
        assert_eq!(of(&["zstd, gzip"]), Err(DecodeError::Layered));
        assert_eq!(of(&["gzip, br"]), Err(DecodeError::Layered));
        assert_eq!(of(&["gzip", "gzip"]), Err(DecodeError::Layered));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd] {
                if let Ok(decoded) = decode(coding, &body) {
                    prop_assert!(decoded.len() <= MAX_DECODED);
                }
            }
        }

        /// Nearly right, so that all parts of a decoder are reached.
        #[test]
        fn a_damaged_body_never_panics(
            coding in prop::sample::select(&[Coding::Gzip, Coding::Brotli, Coding::Zstd][..]),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut body = match coding {
                Coding::Gzip => gzip(&TEXT.repeat(40)),
                Coding::Zstd => base64(ZSTD_40),
                _ => base64(BROTLI),
            };
            for (at, byte) in damage {
                let at = at.index(body.len());
                body[at] = byte;
            }
            if let Ok(decoded) = decode(coding, &body) {
                prop_assert!(decoded.len() <= MAX_DECODED);
            }
        }
    }
}
