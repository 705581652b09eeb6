//! What cannot be signed or opened for a while, through the real binary: payments go on for a time, stop, and come back by
//! themselves; nothing that was not written needs a restart.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use http::Request;
use http_body_util::Full;
use rustix::io::Errno;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Home, bin, eventually, setup};
use crate::support::buyer::skip;
use crate::support::faults::Faults;
use crate::support::origin::{Origin, answer};
use crate::support::seller;

/// Everything under `/buy` costs a cent.
async fn shop() -> Origin {
    Origin::https(|request| async move {
        match request.target.starts_with("/buy") {
            false => answer(200, &[], "free"),
            true if request.is_paid() => seller::sold("goods"),
            true => seller::asks("10000"),
        }
    })
    .await
}

async fn buy(bursar: &Bursar, shop: &Origin) -> u16 {
    let page = Agent::of(bursar).get(shop.address, "/buy").await;
    if page.status != 200 {
        assert_eq!(page.problem(), "store-unavailable", "{page:?}");
    }
    page.status.as_u16()
}

fn signed(dir: &Path) -> usize {
    let note = std::fs::read_to_string(dir.join("audit/checkpoint")).unwrap_or_default();
    note.lines().nth(1).map_or(0, |size| size.parse().unwrap())
}

fn alerts(bursar: &Bursar, kind: &str) -> usize {
    let journal = bursar.journal();
    let alerts = journal
        .iter()
        .filter(|entry| entry["ev"] == "alert.raised" && entry["kind"] == kind);
    alerts.count()
}

fn segments(bursar: &Bursar) -> usize {
    let files = std::fs::read_dir(bursar.path().join("audit")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("seg-")).count()
}

/// All that was paid is in the journal, signed, and readable.
fn whole_at_the_end(mut bursar: Bursar, shop: &Origin) {
    let paid = shop.payments().len();
    assert_eq!(bursar.payments().len(), paid);
    assert_eq!(bursar.stop(), 0);
    assert_eq!(signed(bursar.path()), bursar.journal().len());
    let bursar = bursar.kill().serve();
    assert_eq!(bursar.states(), vec!["settled"; paid]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_signed_stops_payments_after_a_time_and_all_comes_back_by_itself() {
    for (call, path, error) in [
        ("open", "/audit/checkpoint.tmp", Errno::MFILE),
        ("write", "/audit/checkpoint", Errno::NOSPC),
        ("sync", "/audit/checkpoint", Errno::IO),
        ("rename", "/audit/checkpoint", Errno::ROFS),
    ] {
        let (shop, faults) = (shop().await, Faults::none());
        let home = setup().trust(&shop.ca_pem).config("[log]\nunsigned_max_s = 1\n").home();
        let bursar = home.serve_by(faults.program());
        assert_eq!(buy(&bursar, &shop).await, 200);
        faults.fail(call, path, error);
        // There is something to sign, and the first failure is known at once.
        buy(&bursar, &shop).await;
        eventually("the alert", || (alerts(&bursar, "log-unsigned") > 0).then_some(())).await;
        // Payments go on at first, and are refused in the end.
        let refused = loop {
            if buy(&bursar, &shop).await == 503 {
                break shop.payments().len();
            }
        };
        let free = Agent::of(&bursar).get(shop.address, "/").await;
        assert_eq!((free.status.as_u16(), &free.body[..]), (200, &b"free"[..]));
        assert_eq!(buy(&bursar, &shop).await, 503);
        assert_eq!(shop.payments().len(), refused, "nothing went out");
        eventually("the second alert", || {
            (alerts(&bursar, "log-unsigned") == 2).then_some(())
        })
        .await;

        faults.clear();
        while buy(&bursar, &shop).await != 200 {}
        assert_eq!(shop.payments().len(), refused + 1, "{call} {path}");
        whole_at_the_end(bursar, &shop);
    }
}

/// A descriptor that was set aside is used: nobody notices anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_missing_descriptor_is_made_up_for_by_those_set_aside() {
    for path in ["/audit/checkpoint.tmp", "/private/seg-"] {
        let (shop, faults) = (shop().await, Faults::none());
        let home = setup().trust(&shop.ca_pem).config("[log]\nunsigned_max_s = 1\n").home();
        let bursar = home.serve_by(faults.program());
        faults.fail_once("open", path, Errno::MFILE);
        for _ in 0..3 {
            assert_eq!(buy(&bursar, &shop).await, 200);
        }
        eventually("a checkpoint of everything", || {
            (signed(bursar.path()) == bursar.journal().len()).then_some(())
        })
        .await;
        let met = faults
            .steps()
            .iter()
            .any(|step| step.call == "open" && step.what.contains(path));
        assert!(met, "{path}: never met");
        let log = bursar.log();
        for complaint in ["cannot be signed", "cannot be stored", "cannot write the paths"] {
            assert!(!log.contains(complaint), "{path}: {log}");
        }
        assert_eq!(bursar.payments()[0]["resource"], shop.url("/buy"));
        whole_at_the_end(bursar, &shop);
    }
}

/// The server's day ends while no file can be opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_midnight_payments_go_on_although_the_next_segment_cannot_be_opened() {
    for error in [Errno::MFILE, Errno::NOSPC] {
        let (shop, faults) = (shop().await, Faults::none());
        let now = u32::try_from(jiff::Timestamp::now().as_second() % 86_400).unwrap();
        // Ten minutes before midnight; within a run the time of day may go ahead by less than an hour.
        let evening = (86_400 - now + 86_400 - 600) % 86_400;
        let home = setup().trust(&shop.ca_pem).home();
        faults.wakes_up_later(evening);
        let bursar = home.serve_by(faults.program_with_clocks());
        assert_eq!(buy(&bursar, &shop).await, 200);
        faults.fail("open", "/audit/seg-", error);
        faults.wakes_up_later(evening + 1200);
        for _ in 0..3 {
            assert_eq!(buy(&bursar, &shop).await, 200, "{error}");
        }
        assert_eq!(segments(&bursar), 1);
        eventually("the alert", || (alerts(&bursar, "segment-overdue") == 1).then_some(())).await;
        faults.clear();
        faults.wakes_up_later(evening + 1260);
        assert_eq!(buy(&bursar, &shop).await, 200);
        assert_eq!(segments(&bursar), 2, "it came back by itself");
        assert_eq!(bursar.payments().len(), 5);
        assert_eq!(alerts(&bursar, "store-failed"), 0);
        bursar.journal();
    }
}

/// As many idle connections as there are descriptors, and more, from somebody without a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_that_use_up_all_descriptors_stop_neither_signing_nor_payments_nor_the_operator() {
    let shop = shop().await;
    let home = setup().trust(&shop.ca_pem).config("[log]\nunsigned_max_s = 1\n").home();
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 80; exec \"$0\" \"$@\"", bin()]);
    let bursar = home.serve_by(few);
    let agent = Agent::of(&bursar);
    let mut connection = agent.connect(shop.address, &["http/1.1"]).await;
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(bursar.address).unwrap()).collect();
    let mut paid = 0;
    // For longer than payments would go on without a signature.
    let began = std::time::Instant::now();
    while paid < 20 || began.elapsed() < std::time::Duration::from_secs(4) {
        let request = Request::get("/buy").body(Full::default()).unwrap();
        let page = connection.send(shop.address, request).await.unwrap();
        assert_eq!(page.status, 200, "{page:?}");
        paid += 1;
    }
    eventually("a checkpoint of everything", || {
        (signed(bursar.path()) == bursar.journal().len()).then_some(())
    })
    .await;
    assert_eq!(alerts(&bursar, "log-unsigned"), 0);
    // The server answers on its admin socket.
    let pending = bursar.run(&["pending"]);
    let said = String::from_utf8_lossy(&pending.stderr).into_owned();
    assert!(said.contains("no approver is configured"), "{said}");
    assert_eq!(bursar.payments().len(), paid);
    for mut stream in idle {
        stream.set_nonblocking(true).unwrap();
        let _ = stream.read(&mut [0; 1]);
    }
    drop(connection);
    cut_is_noticed(bursar);
}

/// What was written while the descriptors were used up is signed: cutting it off is noticed.
fn cut_is_noticed(mut bursar: Bursar) {
    let home: Home = bursar.kill();
    let audit = std::fs::read_dir(home.path().join("audit")).unwrap();
    let mut segments: Vec<_> = audit.map(|file| file.unwrap().path()).collect();
    segments.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seg-"));
    segments.sort();
    let text = std::fs::read_to_string(segments.last().unwrap()).unwrap();
    let lines: Vec<&str> = text.trim_end_matches('\n').split_inclusive('\n').collect();
    std::fs::write(segments.last().unwrap(), lines[..lines.len() - 5].concat()).unwrap();
    assert_eq!(home.run(&["payments", "list"]).status.code(), Some(1));
    let Err((_, said)) = home.try_serve_by(Command::new(bin())) else {
        panic!("it serves");
    };
    assert_eq!(said, "");
}

/// A file system in memory, 264 MiB large, which a test can fill completely.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None`: only root may mount.
    fn mount(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=264m,mode=0700", "bursar-test"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|done| done.status.success())
            .then(|| Self(at.to_owned()))
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status();
        assert!(done.unwrap().success(), "{options}");
    }

    /// Takes all the room there is.
    fn fill(&self) -> std::path::PathBuf {
        use std::io::Write;
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_is_really_full_payments_stop_and_come_back_with_the_room() {
    let shop = shop().await;
    let outer = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(outer.path()) else {
        return skip("no file system can be mounted; run the tests as root, with CAP_SYS_ADMIN");
    };
    let made = setup().trust(&shop.ca_pem).config("[log]\nunsigned_max_s = 1\n").home();
    let home = moved_to(made, outer.path());
    let bursar = home.serve();
    assert_eq!(buy(&bursar, &shop).await, 200);
    let filler = disk.fill();
    // The measurement of the room is a second old at most.
    while buy(&bursar, &shop).await != 503 {}
    let paid = shop.payments().len();
    // The journal has room ahead of its end; checkpoints have none. Refusing and looking around changes nothing.
    for _ in 0..5 {
        assert_eq!(buy(&bursar, &shop).await, 503);
    }
    let free = Agent::of(&bursar).get(shop.address, "/").await;
    assert_eq!((free.status.as_u16(), &free.body[..]), (200, &b"free"[..]));
    assert_eq!(bursar.payments().len(), paid);
    assert_eq!(shop.payments().len(), paid);
    std::fs::remove_file(filler).unwrap();
    eventually_pays(&bursar, &shop).await;
    eventually("a checkpoint of everything", || {
        (signed(bursar.path()) == bursar.journal().len()).then_some(())
    })
    .await;
    assert_eq!(alerts(&bursar, "store-failed"), 0);
    let mut bursar = bursar;
    assert_eq!(bursar.stop(), 0);
    drop(bursar);
}

/// Neither a full disk nor a journal that cannot be signed keeps anybody from stopping payments, and what could not be
/// recorded is recorded with the room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_is_really_full_payments_can_be_paused() {
    let shop = shop().await;
    let outer = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(outer.path()) else {
        return skip("no file system can be mounted; run the tests as root, with CAP_SYS_ADMIN");
    };
    let made = setup().trust(&shop.ca_pem).config("[log]\nunsigned_max_s = 1\n").home();
    let bursar = moved_to(made, outer.path()).serve();
    assert_eq!(buy(&bursar, &shop).await, 200);
    let filler = disk.fill();
    while buy(&bursar, &shop).await != 503 {}
    let paid = shop.payments().len();
    let paused = bursar.run(&["pause", "--all", "--why", "the disk"]);
    // On record, or in force and not on record yet.
    assert!([Some(0), Some(4)].contains(&paused.status.code()), "{paused:?}");
    std::fs::remove_file(filler).unwrap();
    eventually("the record", || {
        let listed = bursar.run(&["pause", "--list", "--json"]);
        String::from_utf8(listed.stdout)
            .unwrap()
            .contains("\"recorded\":true")
            .then_some(())
    })
    .await;
    let page = Agent::of(&bursar).get(shop.address, "/buy").await;
    assert_eq!((page.status.as_u16(), page.problem()), (403, "paused".to_owned()));
    assert_eq!(shop.payments().len(), paid);
    let resumed = bursar.run(&["resume", "--all", "--why", "there is room"]);
    assert!(resumed.status.success(), "{resumed:?}");
    eventually_pays(&bursar, &shop).await;
    drop(bursar);
}

async fn eventually_pays(bursar: &Bursar, shop: &Origin) {
    while buy(bursar, shop).await != 200 {}
}

/// A disk that turns read-only: what was refused was not paid, and a start on it fails and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_turned_read_only_nothing_is_paid_and_a_restart_on_a_writable_one_goes_on() {
    let shop = shop().await;
    let outer = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(outer.path()) else {
        return skip("no file system can be mounted; run the tests as root, with CAP_SYS_ADMIN");
    };
    let made = setup().trust(&shop.ca_pem).home();
    let mut bursar = moved_to(made, outer.path()).serve();
    assert_eq!(buy(&bursar, &shop).await, 200);
    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    disk.remount("ro");
    // A server cannot start there, and readers need nothing but to read.
    let refused = Command::new(bin())
        .args(["serve", "--dir"])
        .arg(home.path())
        .output()
        .unwrap();
    assert_ne!(refused.status.code(), Some(0));
    assert_eq!(home.payments(&[]).len(), 1);
    disk.remount("rw");
    let bursar = home.serve();
    assert_eq!(buy(&bursar, &shop).await, 200);
    assert_eq!(bursar.states(), ["settled"; 2]);
    drop(bursar);
}

/// The same directory on another disk.
fn moved_to(home: Home, to: &Path) -> Home {
    let dir = tempfile::tempdir_in(to).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(home.path().join("."))
        .arg(dir.path())
        .status();
    assert!(copied.unwrap().success());
    Home {
        dir,
        token: home.token.clone(),
    }
}
