//! Kills a server, or makes its disk fail, at an exact system call (see `tests/faults/faults.c`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::bursar::bin;

/// The plan for a server, and the trace of its calls. Stored outside its data directory.
pub(crate) struct Faults {
    dir: TempDir,
}

/// One call with an effect outside the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub call: String,
    pub what: String,
}

/// How far the fatal call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    /// As `After`, but a write or send passes on only half of its bytes.
    Half,
    After,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::Half => "half",
            Self::After => "after",
        })
    }
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The server's program, with the shim in front of its C library.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new(bin());
        command.env("LD_PRELOAD", shim()).env("BURSAR_FAULTS", self.plan());
        command
    }

    /// The same, with clocks that [`Faults::passed`] and [`Faults::wakes_up_later`] can set ahead; slower.
    pub(crate) fn program_with_clocks(&self) -> Command {
        let mut command = self.program();
        command.env("BURSAR_CLOCK", self.clocks());
        command
    }

    /// Advances the server's timers by this many seconds since its start. Its time of day is unchanged.
    pub(crate) fn passed(&self, seconds: u32) {
        self.write(&self.clocks(), &format!("{seconds} 0"));
    }

    /// Sets the time of day this many seconds ahead of the kernel's. Use before a start: within a run it is a clock
    /// jump.
    pub(crate) fn wakes_up_later(&self, seconds: u32) {
        self.write(&self.clocks(), &format!("0 {seconds}"));
    }

    pub(crate) fn kill(&self, at: usize, moment: Moment) {
        self.set(&format!("kill {at} {moment}"));
    }

    /// Kills at the `nth` such call, counted from 1, on a path that contains `path`.
    pub(crate) fn kill_at(&self, call: &str, path: &str, nth: usize, moment: Moment) {
        self.set(&format!("kill-at {call} {path} {nth} {moment}"));
    }

    /// From now on such calls fail.
    pub(crate) fn fail(&self, call: &str, path: &str, error: rustix::io::Errno) {
        self.set(&format!("fail {call} {path} 0 {}", error.raw_os_error()));
    }

    /// Only the next such call fails.
    pub(crate) fn fail_once(&self, call: &str, path: &str, error: rustix::io::Errno) {
        self.set(&format!("fail {call} {path} 1 {}", error.raw_os_error()));
    }

    pub(crate) fn watch(&self) {
        self.set("watch");
    }

    /// No faults from now on.
    pub(crate) fn clear(&self) {
        let _ = std::fs::remove_file(self.plan());
    }

    /// The calls since the last change of plan, in order.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines()
            .map(|line| {
                let mut words = line.splitn(3, ' ').skip(1).map(str::to_owned);
                let [call, what] = [words.next().unwrap(), words.next().unwrap()];
                Step { call, what }
            })
            .collect()
    }

    fn set(&self, plan: &str) {
        self.clear();
        let _ = std::fs::remove_file(self.log());
        self.write(&self.plan(), plan);
    }

    /// Written atomically, because it is read at every step.
    fn write(&self, path: &Path, text: &str) {
        let draft = self.dir.path().join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, path).unwrap();
    }

    fn clocks(&self) -> PathBuf {
        self.dir.path().join("clocks")
    }

    fn plan(&self) -> PathBuf {
        self.dir.path().join("plan")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("plan.log")
    }
}

/// Compiles the shim, once per test process.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (done, draft) = (
            folder.join("faults.so"),
            folder.join(format!("faults-{}.so", std::process::id())),
        );
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&draft)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/faults.c"))
            .arg("-lpthread")
            .output()
            .expect("a C compiler, `cc`, is needed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // Another test process may have the old file loaded at this moment; it keeps its own.
        std::fs::rename(draft, &done).unwrap();
        done
    })
}
