//! Header blocks of HTTP/2 (RFC 7541) as bytes, without any of the checks that libraries make: targets that are not
//! UTF-8, odd values, the order of fields.

use std::collections::VecDeque;

pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The lengths of the codes in Appendix B. The code is canonical, so they say all.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Fields that are neither compressed nor remembered.
pub(super) fn encoded(fields: &[Pair]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// With a prefix of 7 bits.
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// The reading side of one connection.
#[derive(Default)]
pub(super) struct Decoder {
    recent: VecDeque<Pair>,
}

impl Decoder {
    /// Panics on a block that is not valid: both sides of a test are expected to encode correctly.
    pub(super) fn decoded(&mut self, mut block: &[u8]) -> Vec<Pair> {
        let mut fields = Vec::new();
        while let Some(first) = block.first().copied() {
            let prefix = match first {
                0x80.. => 7,
                0x40.. => 6,
                0x20.. => 5,
                _ => 4,
            };
            let index = read_integer(&mut block, prefix);
            match first {
                0x80.. => fields.push(self.entry(index)),
                // Tests never shrink the table.
                0x20..0x40 => {}
                _ => {
                    let name = if index == 0 {
                        read_text(&mut block)
                    } else {
                        self.entry(index).0
                    };
                    let field = (name, read_text(&mut block));
                    if first >= 0x40 {
                        self.remember(field.clone());
                    }
                    fields.push(field);
                }
            }
        }
        fields
    }

    fn entry(&self, index: usize) -> Pair {
        if let Some((name, value)) = STATIC.get(index - 1) {
            return (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        }
        self.recent[index - 1 - STATIC.len()].clone()
    }

    fn remember(&mut self, field: Pair) {
        self.recent.push_front(field);
        let (mut size, mut count) = (0, 0);
        for (name, value) in &self.recent {
            size += name.len() + value.len() + 32;
            if size > 4096 {
                break;
            }
            count += 1;
        }
        self.recent.truncate(count);
    }
}

fn read_integer(block: &mut &[u8], prefix: u32) -> usize {
    let most = (1 << prefix) - 1;
    let mut value = usize::from(block[0]) & most;
    *block = &block[1..];
    if value < most {
        return value;
    }
    for shift in (0..).step_by(7) {
        let byte = usize::from(block[0]);
        *block = &block[1..];
        value += (byte & 127) << shift;
        if byte < 128 {
            break;
        }
    }
    value
}

fn read_text(block: &mut &[u8]) -> Vec<u8> {
    let is_huffman = block[0] >= 128;
    let length = read_integer(block, 7);
    let (text, rest) = block.split_at(length);
    *block = rest;
    if is_huffman { unpacked(text) } else { text.to_vec() }
}

fn unpacked(packed: &[u8]) -> Vec<u8> {
    let (mut text, mut code, mut length) = (Vec::new(), 0_u32, 0_u8);
    for byte in packed {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            if let Some(symbol) = symbol(code, length) {
                text.push(symbol);
                (code, length) = (0, 0);
            }
        }
    }
    text
}

/// Codes of one length follow each other in the order of their symbols, from the first after all shorter ones.
fn symbol(code: u32, length: u8) -> Option<u8> {
    let mut first = 0_u32;
    for shorter in 1..length {
        let count = LENGTHS.iter().filter(|each| **each == shorter).count();
        first = (first + u32::try_from(count).unwrap()) << 1;
    }
    let place = usize::try_from(code.checked_sub(first)?).unwrap();
    let mut symbols = (0..=255).filter(|symbol: &u8| LENGTHS[usize::from(*symbol)] == length);
    symbols.nth(place)
}

#[test]
fn blocks_are_read_as_the_rfc_shows() {
    // RFC 7541 §C.4.1 and §C.4.2.
    let mut decoder = Decoder::default();
    let pairs = |pairs: &[(&str, &str)]| -> Vec<Pair> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect()
    };
    let common = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];
    let first = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
    assert_eq!(decoder.decoded(first), pairs(&common));
    let second = b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf";
    let more = [&common[..], &[("cache-control", "no-cache")]].concat();
    assert_eq!(decoder.decoded(second), pairs(&more));
    let odd: Vec<Pair> = vec![(b"x".to_vec(), vec![0xff; 300])];
    assert_eq!(decoder.decoded(&encoded(&odd)), odd);
}
