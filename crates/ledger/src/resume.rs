//! Where a start may begin to read, and whether what it reads is what was signed (R204, R225).
//!
//! The index keeps the last position that was signed. If the files before it exist with their sizes, and the line that
//! ends at it has the expected hash, the start reads from there on; what is before it is read in the background
//! (`reread`). In case of any doubt everything is read, because the journal decides and never the index.

use std::cmp::Reverse;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::note::Checkpoint;
use super::pruned::Beginning;
use super::scan::{self, Chain, Line, Place};
use super::text::Digest;
use super::tree::Tree;

/// A point between two entries of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    tree: Tree,
    /// Leaf hash of the entry before it.
    tip: Digest,
    place: Place,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            tree: Tree::default(),
            tip: Digest::ZERO,
            place: Place::START,
        }
    }
}

impl Position {
    pub fn new(tree: Tree, tip: Digest, place: Place) -> Self {
        Self { tree, tip, place }
    }

    /// The number of entries before it.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    pub fn place(&self) -> Place {
        self.place
    }

    pub fn chain(&self) -> Chain {
        Chain {
            next_seq: self.tree.size(),
            tip: self.tip,
        }
    }

    /// Whether a start may begin to read here. `indexed`: how far the index has come. `segments`: first entry and
    /// length of the finished segments, according to the index.
    pub(crate) fn is_sound(
        &self,
        first: &Beginning,
        audit: &Path,
        signed: &[Checkpoint],
        indexed: Chain,
        segments: &[(u64, u64)],
    ) -> bool {
        let Some(newest) = signed.last() else {
            return false;
        };
        let was_signed = self.size() > first.chain.next_seq
            && self.size() <= newest.size
            && signed
                .iter()
                .all(|signed| signed.size != self.size() || signed.root == self.tree.root());
        let is_indexed = self.size() < indexed.next_seq || (self.size() == indexed.next_seq && self.tip == indexed.tip);
        // Segments that were moved away, or that a stop in the middle of moving has left, do not matter here.
        let here = first.place.segment..self.place.segment;
        let earlier = |(first_seq, _): &&(u64, u64)| here.contains(first_seq);
        was_signed
            && is_indexed
            && scan::lengths_before(audit, self.place.segment)
                .is_ok_and(|found| found.iter().filter(earlier).eq(segments.iter().filter(earlier)))
            && scan::leaf_before(audit, self.place).is_ok_and(|leaf| leaf == Some(self.tip))
    }
}

/// Grows the tree along a scan, and compares it with what was signed.
pub(crate) struct Follower {
    pub tree: Tree,
    /// What was signed about more entries than have been read, the largest first.
    ahead: Vec<Checkpoint>,
}

impl Follower {
    pub(crate) fn new(tree: Tree, signed: &[Checkpoint]) -> Self {
        let mut ahead: Vec<Checkpoint> = signed
            .iter()
            .filter(|signed| signed.size > tree.size())
            .copied()
            .collect();
        // The next one last, because a long journal has many.
        ahead.sort_by_key(|signed| Reverse(signed.size));
        Self { tree, ahead }
    }

    pub(crate) fn visit(&mut self, line: &Line<'_>) -> Result<(), String> {
        self.append(line.leaf)
    }

    pub(crate) fn append(&mut self, leaf: Digest) -> Result<(), String> {
        self.tree.append(leaf);
        let size = self.tree.size();
        while let Some(signed) = self.ahead.pop_if(|signed| signed.size == size) {
            if signed.root != self.tree.root() {
                return Err(format!(
                    "the {size} entries up to here are not the ones that were signed (audit/checkpoint, \
                     audit/checkpoints.log)"
                ));
            }
        }
        Ok(())
    }
}
