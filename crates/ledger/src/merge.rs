//! Writes an event's members and the five head members as one object in JCS order, without building a value tree.
//!
//! `serde_json` calls a `Formatter` before each member; this one first writes the head members whose names sort lower.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::Serializer;
use serde_json::ser::Formatter;

use super::text::{Digest, Moment};

/// What every entry has besides the members of its event.
#[derive(Debug, Deserialize)]
pub struct Head<'a> {
    pub v: u8,
    pub seq: u64,
    pub ts: Moment,
    /// Leaf hash of the previous entry; zeros for the first.
    pub prev: Digest,
    #[serde(borrow)]
    pub ev: Cow<'a, str>,
}

/// Appends one object. `body` must be a struct whose members are declared in ascending order and have plain ASCII
/// names.
pub(crate) fn write(head: &Head<'_>, body: &impl Serialize, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let start = out.len();
    let merge = Merge {
        head,
        next: 0,
        depth: 0,
        members: 0,
        at_name: false,
    };
    let result = body.serialize(&mut Serializer::with_formatter(&mut *out, merge));
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Head members in JCS order.
const NAMES: [&str; 5] = ["ev", "prev", "seq", "ts", "v"];

struct Merge<'a> {
    head: &'a Head<'a>,
    /// The first of `NAMES` that is not written yet.
    next: usize,
    depth: usize,
    members: usize,
    /// The next string is the name of an outermost member.
    at_name: bool,
}

impl Merge<'_> {
    fn comma<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.members += 1;
        if self.members > 1 {
            writer.write_all(b",")
        } else {
            Ok(())
        }
    }

    fn head_member<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let name = NAMES[self.next];
        self.next += 1;
        self.comma(writer)?;
        match name {
            "ev" => write!(writer, "\"ev\":\"{}\"", self.head.ev),
            "prev" => write!(writer, "\"prev\":\"{}\"", self.head.prev),
            "seq" => write!(writer, "\"seq\":{}", self.head.seq),
            "ts" => write!(writer, "\"ts\":\"{}\"", self.head.ts),
            _ => write!(writer, "\"v\":{}", self.head.v),
        }
    }
}

impl Formatter for Merge<'_> {
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        while self.depth == 0 && self.next < NAMES.len() {
            self.head_member(writer)?;
        }
        writer.write_all(b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if self.depth == 1 {
            self.at_name = true;
            return Ok(());
        }
        if first { Ok(()) } else { writer.write_all(b",") }
    }

    fn begin_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        // At a name, the opening quote waits until the name is known.
        if self.at_name { Ok(()) } else { writer.write_all(b"\"") }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if self.at_name {
            self.at_name = false;
            while self.next < NAMES.len() && NAMES[self.next] < fragment {
                self.head_member(writer)?;
            }
            self.comma(writer)?;
            writer.write_all(b"\"")?;
        }
        writer.write_all(fragment.as_bytes())
    }
}
