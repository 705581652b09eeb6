use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use bursar_core::clock::ManualClock;
use bursar_home::{Readers, write_new};
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::entry::Closed;
use crate::journal::{Faults, Step, Verdict};
use crate::options::CheckpointInterval;
use crate::recovery;

struct World {
    dir: tempfile::TempDir,
    noon: Timestamp,
    options: Options,
    raised: Arc<Mutex<Vec<Alarm>>>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = "ed25519-seed AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
        write_new(&dir.path().join("log.key"), key.as_bytes(), Readers::Owner).unwrap();
        let noon = "2026-11-20T12:00:00Z".parse().unwrap();
        let mut options = Options::new(Arc::new(ManualClock::at(noon)));
        let raised = Arc::new(Mutex::new(Vec::new()));
        let alarms = raised.clone();
        options.alarms = Arc::new(move |alarm| alarms.lock().unwrap().push(alarm));
        // Nothing is signed, so that only the log counts.
        options.signing = CheckpointInterval::every(Duration::MAX, u64::MAX);
        Self {
            dir,
            noon,
            options,
            raised,
        }
    }

    fn start(&self, faults: impl Faults + 'static) -> LocalLog {
        let dir = self.dir.path();
        let audit = dir.join("audit");
        std::fs::create_dir_all(&audit).unwrap();
        let checkpoints = Checkpoints::read(dir).unwrap();
        let (scanned, tree) = recovery::read_log(dir, &checkpoints, &mut |_| {}).unwrap();
        let bytes = self.options.segment_bytes;
        let (journal, _) = Journal::at_end(&audit, scanned, tree, self.noon, bytes, Some(Box::new(faults))).unwrap();
        LocalLog::start(journal, dir, checkpoints, &self.options).unwrap()
    }

    fn append(&self, log: &mut LocalLog, after: SignedDuration) {
        let mut lines = Lines::after(log.chain, Version::V1);
        let (entry, bytes) = lines
            .encode(Moment::of(self.noon + after), Body::Closed(Closed {}))
            .unwrap();
        lines.push(entry.seq, bytes);
        log.append(lines, Vec::new());
    }
}

/// Holds the first sync until it is released.
struct Hangs(mpsc::Receiver<()>);

impl Faults for Hangs {
    fn at(&mut self, step: Step) -> Verdict {
        if step == Step::Sync {
            // Later ones find the other end gone.
            let _ = self.0.recv();
        }
        Verdict::Go
    }
}

#[test]
fn a_disk_that_hangs_in_the_log_stops_payments_until_it_answers() {
    let mut world = World::new();
    world.options.unsigned_max = Duration::from_nanos(1);
    let (release, hangs) = mpsc::channel();
    let mut log = world.start(Hangs(hangs));
    assert_eq!(log.overdue(), None);
    world.append(&mut log, SignedDuration::ZERO);
    while log.overdue().is_none() {
        std::thread::yield_now();
    }
    drop(release);
    while log.overdue().is_some() {
        std::thread::yield_now();
    }
}

/// The next segment cannot be opened.
struct NoSegment;

impl Faults for NoSegment {
    fn at(&mut self, step: Step) -> Verdict {
        match step {
            Step::Open => Verdict::Fail,
            _ => Verdict::Go,
        }
    }
}

#[test]
fn a_next_segment_that_cannot_be_opened_raises_an_alarm_once() {
    let world = World::new();
    let mut log = world.start(NoSegment);
    for hours in [0, 13, 14, 15] {
        world.append(&mut log, SignedDuration::from_hours(hours));
    }
    log.close();
    assert_eq!(log.failed(), None);
    let raised = world.raised.lock().unwrap();
    assert!(matches!(raised[..], [Alarm::SegmentOverdue { .. }]), "{raised:?}");
    let segments = crate::scan::segments(&world.dir.path().join("audit")).unwrap();
    assert_eq!(segments.len(), 1);
}
