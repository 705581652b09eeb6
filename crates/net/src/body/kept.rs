//! The bytes of a request that may be sent again, and the memory that they take. What is counted is the memory, not the
//! payload: an upload in one-byte chunks arrives as a million frames, each of which would keep a whole read buffer.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{REPLAY_CAP, REPLAY_CAP_ALL};
use crate::shares::{Bounds, Full, Share, Shares, What};
use bursar_core::agent_name::AgentName;

/// The first block of a body; each further one is as long as all before it together, up to [`LARGEST`].
const FIRST: usize = 1 << 10;
const LARGEST: usize = 64 << 10;

/// The memory that buffered requests share. A request that finds none left is still forwarded, but cannot be paid for.
#[derive(Clone)]
pub struct ReplayBudget(Shares);

impl ReplayBudget {
    /// `all` bytes, of which one agent gets at most a quarter.
    pub fn new(all: usize) -> Self {
        let bounds = Bounds {
            all,
            each: all / 4,
            queue_each: 0,
        };
        Self(Shares::new(What::Memory, bounds))
    }

    pub fn of(&self, agent: &AgentName) -> AgentBudget {
        AgentBudget {
            budget: self.clone(),
            agent: agent.clone(),
        }
    }
}

impl Default for ReplayBudget {
    fn default() -> Self {
        Self::new(REPLAY_CAP_ALL)
    }
}

/// The part of one agent.
pub struct AgentBudget {
    budget: ReplayBudget,
    agent: AgentName,
}

impl AgentBudget {
    fn block(&self, capacity: usize) -> Result<Block, Full> {
        let memory = self.budget.0.take(&self.agent, capacity)?;
        Ok(Block {
            bytes: Vec::with_capacity(capacity),
            _memory: memory,
        })
    }
}

/// Memory that counts until the last reader has dropped it.
struct Block {
    bytes: Vec<u8>,
    _memory: Share,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes so far, copied into few large blocks.
pub(super) struct Kept {
    budget: AgentBudget,
    blocks: Vec<Block>,
    /// All of them in one piece, once somebody wanted that.
    whole: Option<Bytes>,
    size: usize,
    capacity: usize,
    /// The length of the first block.
    first: usize,
}

impl Kept {
    /// A body of a `declared` length gets one block, once its first byte has arrived.
    pub(super) fn new(budget: AgentBudget, declared: Option<u64>) -> Self {
        let declared = declared.and_then(|length| usize::try_from(length).ok());
        let first = declared.filter(|length| *length <= REPLAY_CAP);
        Self {
            budget,
            blocks: Vec::new(),
            whole: None,
            size: 0,
            capacity: 0,
            first: first.unwrap_or(FIRST),
        }
    }

    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// After an error nothing of `data` is kept that was not kept before.
    pub(super) fn add(&mut self, data: &[u8]) -> Result<(), Full> {
        let room = self.capacity - self.size;
        let capacity = match self.blocks.is_empty() {
            true => self.first,
            false => self.capacity.clamp(FIRST, LARGEST),
        };
        let block = match data.len() > room {
            true => Some(self.budget.block(capacity.max(data.len() - room))?),
            false => None,
        };
        let (here, there) = data.split_at(data.len().min(room));
        if let Some(last) = self.blocks.last_mut() {
            last.bytes.extend_from_slice(here);
        }
        if let Some(mut block) = block {
            self.capacity += block.bytes.capacity();
            block.bytes.extend_from_slice(there);
            self.blocks.push(block);
        }
        self.size += data.len();
        Ok(())
    }

    /// A copy of the bytes so far, if there is room for one.
    pub(super) fn so_far(&self) -> Result<Bytes, Full> {
        if let Some(whole) = &self.whole {
            return Ok(whole.clone());
        }
        let mut copy = self.budget.block(self.size)?;
        self.blocks
            .iter()
            .for_each(|block| copy.bytes.extend_from_slice(&block.bytes));
        Ok(Bytes::from_owner(copy))
    }

    /// All bytes in one piece. There may be no room for the copy.
    pub(super) fn whole(&mut self) -> Result<Bytes, Full> {
        if let Some(whole) = &self.whole {
            return Ok(whole.clone());
        }
        let block = if self.blocks.len() > 1 {
            let mut one = self.budget.block(self.size)?;
            self.blocks
                .iter()
                .for_each(|block| one.bytes.extend_from_slice(&block.bytes));
            Some(one)
        } else {
            self.blocks.pop()
        };
        self.blocks.clear();
        let whole = block.map(Bytes::from_owner).unwrap_or_default();
        self.whole = Some(whole.clone());
        Ok(whole)
    }

    /// Hands over the bytes in order, and keeps nothing.
    pub(super) fn hand_over(&mut self) -> VecDeque<Bytes> {
        (self.size, self.capacity) = (0, 0);
        let blocks = self.blocks.drain(..).map(Bytes::from_owner);
        self.whole.take().into_iter().chain(blocks).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentName {
        "research".parse().unwrap()
    }

    fn kept(budget: &ReplayBudget) -> Kept {
        Kept::new(budget.of(&agent()), None)
    }

    #[test]
    fn one_byte_at_a_time_takes_no_more_memory_than_one_piece() {
        let budget = ReplayBudget::new(256 << 20);
        let mut kept = kept(&budget);
        let sent: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
        for byte in &sent {
            kept.add(std::slice::from_ref(byte)).unwrap();
            let held: usize = kept.blocks.iter().map(|block| block.bytes.capacity()).sum();
            assert_eq!(held, budget.0.used(), "what is counted is what is held");
            assert!(
                held <= kept.size() * 2 + FIRST && held <= kept.size() + LARGEST,
                "{held} for {}",
                kept.size()
            );
        }
        assert!(kept.blocks.len() < 32, "{} blocks", kept.blocks.len());
        let whole = kept.whole().unwrap();
        assert_eq!(whole, sent);
        assert_eq!(budget.0.used(), 1 << 20);
        // It counts as long as anybody has it, not as long as the request lasts.
        drop(kept);
        assert_eq!(budget.0.used(), 1 << 20);
        drop(whole);
        assert_eq!(budget.0.used(), 0);
    }

    #[test]
    fn frames_of_any_length_come_back_as_they_were() {
        for lengths in [
            &[0, 1, 1023, 1, 5000, 0, 70_000, 3][..],
            &[200_000],
            &[1024, 1024, 1],
            &[],
        ] {
            for in_one_piece in [true, false] {
                let budget = ReplayBudget::new(1 << 20);
                let mut kept = kept(&budget);
                let mut sent = Vec::new();
                for (number, length) in lengths.iter().enumerate() {
                    let frame = vec![number as u8; *length];
                    kept.add(&frame).unwrap();
                    sent.extend(frame);
                }
                if in_one_piece {
                    assert_eq!(kept.whole().unwrap(), sent);
                }
                let parts: Vec<u8> = kept.hand_over().iter().flatten().copied().collect();
                assert_eq!(parts, sent);
                assert_eq!(budget.0.used(), 0);
            }
        }
    }

    #[test]
    fn a_body_of_known_length_takes_that_and_needs_no_copy() {
        let budget = ReplayBudget::new(8 << 20);
        for promised in [1 << 20, 3, 5_000_000] {
            let mut kept = Kept::new(budget.of(&agent()), Some(promised));
            assert_eq!(budget.0.used(), 0, "nothing is taken for a promise");
            kept.add(b"one").unwrap();
            let taken = budget.0.used();
            assert!(taken as u64 == promised || taken == FIRST, "{taken} for {promised}");
            let first = kept.blocks[0].bytes.as_ptr();
            assert_eq!(kept.whole().unwrap().as_ptr(), first);
        }
    }

    #[test]
    fn one_agent_gets_a_quarter() {
        let budget = ReplayBudget::new(1 << 20);
        let mut first = kept(&budget);
        first.add(&[b'x'; 250_000]).unwrap();
        assert!(first.add(&[b'x'; 20_000]).is_err());
        assert_eq!(first.size(), 250_000);
        assert!(kept(&budget).add(&[b'x'; 20_000]).is_err(), "the same agent");
        let mut other = Kept::new(budget.of(&"writer".parse().unwrap()), None);
        other.add(&[b'x'; 250_000]).unwrap();
    }
}
