//! Which limits are in force for all proxies together: the file that was published last (R210). A proxy with a
//! different file reserves nothing.

use std::collections::{BTreeMap, HashMap};

use crate::model::ReserveError;

/// SHA-256 of a limits file.
pub(super) type Sha256 = [u8; 32];

/// Each proxy counts its own files from 1; plans made under the last few may still be under way.
const REMEMBERED: usize = 16;

/// The files that this proxy has loaded, by its own count, and their generations in the database.
#[derive(Clone, Debug, Default)]
pub(super) struct Mine {
    generations: BTreeMap<u64, u64>,
}

impl Mine {
    fn load(&mut self, local: u64, generation: u64) {
        self.generations.insert(local, generation);
        while self.generations.len() > REMEMBERED {
            self.generations.pop_first();
        }
    }

    fn of(&self, local: u64) -> Option<u64> {
        self.generations.get(&local).copied()
    }

    pub(super) fn newest(&self) -> Option<u64> {
        self.generations.last_key_value().map(|(_, generation)| *generation)
    }
}

/// The state in the database, as read within a transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    /// Generation and file in force. `None`: nothing was published yet.
    pub current: Option<(u64, Sha256)>,
    /// Generations of those files that this batch asks about.
    pub history: HashMap<Sha256, u64>,
    /// To be published by this batch.
    pub fresh: Vec<(u64, Sha256)>,
}

impl Published {
    /// Records a file that this proxy has loaded. Returns its generation.
    pub(super) fn load(&mut self, mine: &mut Mine, local: u64, sha256: Sha256) -> u64 {
        let known = match self.current {
            Some((generation, current)) if current == sha256 => Some(generation),
            _ => self.history.get(&sha256).copied(),
        };
        let generation = known.unwrap_or_else(|| {
            let generation = self.current.map_or(1, |(current, _)| current + 1);
            self.current = Some((generation, sha256));
            self.history.insert(sha256, generation);
            self.fresh.push((generation, sha256));
            generation
        });
        mine.load(local, generation);
        generation
    }

    /// Whether a payment that was planned under this proxy's file `local` (`None`: its newest) may be reserved; returns
    /// the generation to record.
    pub(super) fn admits(&self, mine: &Mine, local: Option<u64>) -> Result<Option<u64>, ReserveError> {
        let Some((need, _)) = self.current else {
            return Ok(None);
        };
        let have = match local {
            Some(local) => mine.of(local),
            None => mine.newest(),
        };
        let have = have.unwrap_or(0);
        if have == need {
            Ok(Some(need))
        } else {
            Err(ReserveError::StalePolicy { have, need })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_published_once_and_an_older_one_is_stale() {
        let (old, new) = ([1; 32], [2; 32]);
        let (mut published, mut mine) = (Published::default(), Mine::default());
        assert_eq!(published.admits(&mine, Some(1)), Ok(None), "nothing is published");
        assert_eq!(published.load(&mut mine, 1, old), 1);
        assert_eq!(published.load(&mut mine, 1, old), 1);
        assert_eq!(published.fresh, [(1, old)]);
        assert_eq!(published.admits(&mine, Some(1)), Ok(Some(1)));

        let mut other = Mine::default();
        assert_eq!(published.load(&mut other, 1, new), 2);
        let stale = ReserveError::StalePolicy { have: 1, need: 2 };
        assert_eq!(published.admits(&mine, Some(1)), Err(stale.clone()));
        assert_eq!(published.admits(&mine, None), Err(stale));
        // Loading the old file again does not make it a new one.
        assert_eq!(published.load(&mut mine, 2, old), 1);
        assert!(published.admits(&mine, Some(2)).is_err());
        assert_eq!(published.load(&mut mine, 3, new), 2);
        assert_eq!(published.admits(&mine, Some(3)), Ok(Some(2)));
        assert!(published.admits(&mine, Some(2)).is_err(), "planned under the old one");
        let nobody = Mine::default();
        assert_eq!(
            published.admits(&nobody, Some(1)),
            Err(ReserveError::StalePolicy { have: 0, need: 2 })
        );
    }
}
