//! The Merkle tree over the journal's entries (RFC 6962 §2.1), stored as its frontier: the roots of the full subtrees
//! that the leaves so far form, one per bit set in their number.
//!
//! Appending costs one hash on average, the root at most one per bit. A frontier does not contain the root at an
//! earlier size; to get that, build the tree again up to there.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::text::Digest;

/// A tree that only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Tree {
    size: u64,
    /// Roots of the full subtrees, the largest first: as many as `size` has bits set.
    peaks: Vec<Digest>,
}

impl Tree {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the leaf hash of the next entry ([`Digest::leaf`]).
    pub fn append(&mut self, leaf: Digest) {
        let mut peak = leaf;
        // Every bit that carries over merges two subtrees of equal size.
        for _ in 0..self.size.trailing_ones() {
            match self.peaks.pop() {
                Some(left) => peak = node(&left, &peak),
                None => break,
            }
        }
        self.peaks.push(peak);
        self.size += 1;
    }

    /// The root over all leaves so far; without leaves, the hash of the empty string.
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return Digest::of(b"");
        };
        peaks.fold(*last, |right, left| node(left, &right))
    }
}

/// SHA-256(0x01 || left || right).
fn node(left: &Digest, right: &Digest) -> Digest {
    let mut hash = Sha256::new();
    hash.update([0x01]);
    hash.update(left.0);
    hash.update(right.0);
    Digest(hash.finalize().into())
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Parts {
    size: u64,
    peaks: Vec<Digest>,
}

impl From<Tree> for Parts {
    fn from(Tree { size, peaks }: Tree) -> Self {
        Self { size, peaks }
    }
}

impl TryFrom<Parts> for Tree {
    type Error = String;

    fn try_from(Parts { size, peaks }: Parts) -> Result<Self, Self::Error> {
        if peaks.len() as u64 != u64::from(size.count_ones()) {
            return Err(format!(
                "a frontier of {size} leaves cannot have {} hashes",
                peaks.len()
            ));
        }
        Ok(Self { size, peaks })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Roots {
        roots: Vec<Root>,
    }

    #[derive(Deserialize)]
    struct Root {
        size: u64,
        root_hex: Digest,
    }

    #[derive(Deserialize)]
    struct Entries {
        entries: Vec<Line>,
    }

    #[derive(Deserialize)]
    struct Line {
        utf8: String,
    }

    #[test]
    fn roots_are_those_of_the_vectors() {
        let roots: Roots = serde_json::from_str(include_str!("../../../fixtures/audit/roots.json")).unwrap();
        let lines: Entries = serde_json::from_str(include_str!("../../../fixtures/audit/entries.json")).unwrap();
        let mut tree = Tree::default();
        let mut lines = lines.entries.iter();
        for Root { size, root_hex } in roots.roots {
            assert_eq!((tree.size(), tree.root()), (size, root_hex));
            if let Some(line) = lines.next() {
                tree.append(Digest::leaf(line.utf8.as_bytes()));
            }
        }
        assert_eq!(tree.size(), 8, "all vectors were checked");
    }

    /// The definition in RFC 6962 §2.1.
    fn by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(b""),
            [one] => *one,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node(&by_definition(left), &by_definition(right))
            }
        }
    }

    #[test]
    fn a_frontier_has_the_root_of_the_definition_at_every_size() {
        let leaves: Vec<Digest> = (0..300u32).map(|n| Digest::leaf(&n.to_be_bytes())).collect();
        let mut tree = Tree::default();
        for (count, leaf) in leaves.iter().enumerate() {
            assert_eq!(tree.root(), by_definition(&leaves[..count]));
            tree.append(*leaf);
        }
    }

    #[test]
    fn a_stored_frontier_continues_and_an_invalid_one_is_rejected() {
        let mut tree = Tree::default();
        for n in 0..11u32 {
            tree.append(Digest::leaf(&n.to_be_bytes()));
        }
        let text = serde_json::to_string(&tree).unwrap();
        let mut again: Tree = serde_json::from_str(&text).unwrap();
        assert_eq!(again, tree);
        again.append(Digest::leaf(b"x"));
        tree.append(Digest::leaf(b"x"));
        assert_eq!(again.root(), tree.root());
        assert!(serde_json::from_str::<Tree>(&text.replace("11", "12")).is_err());
    }
}
