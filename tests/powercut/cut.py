#!/usr/bin/env python3
"""Takes the disk away under the ledger and looks what is left. Called by tests/powercut.sh; needs root, loop devices, ext4.

The power fails for a file system of its own: ext4 is told to stop at once, without writing its log, so that page cache and
uncommitted metadata are lost as they would be. What a drive keeps in a cache of its own is not lost.
"""
import argparse
import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# linux/ext4: _IOR('X', 125, __u32), and what to do with the log: nothing.
EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = 2


class Disk:
    """A file with an ext4 in it."""

    def __init__(self, folder, megabytes):
        self.image, self.mounted = folder / "disk.img", folder / "disk"
        self.megabytes = megabytes
        self.mounted.mkdir()

    def format(self):
        with open(self.image, "wb") as image:
            image.truncate(self.megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], check=True)

    def mount(self, *options):
        subprocess.run(["mount", "-o", ",".join(("loop", *options)), str(self.image), str(self.mounted)], check=True)

    def unmount(self):
        # The kernel may need a moment to let go of what a killed process had open.
        for _ in range(200):
            if subprocess.run(["umount", str(self.mounted)], capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        sys.exit(f"cannot unmount {self.mounted}")

    def power_off(self):
        fd = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
        finally:
            os.close(fd)


class Writer:
    """The program on the disk, and the highest number that it said."""

    def __init__(self, program, folder, acknowledged=0):
        self.acknowledged, self.has_news = acknowledged, threading.Event()
        command = [program, "write", str(folder)]
        # Its complaints go to a file: nobody reads a second pipe while it writes.
        self.complaints = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.complaints, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            if line.endswith("\n") and int(line) > self.acknowledged:
                self.acknowledged = int(line)
                self.has_news.set()

    def has_ended(self):
        return self.process.poll() is not None

    def end(self):
        self.process.kill()
        return self.wait()

    def wait(self):
        """Until it ends by itself. What it complained of."""
        self.process.wait()
        self.reader.join()
        self.complaints.seek(0)
        return self.complaints.read().strip()


def check(program, folder, acknowledged):
    """What is wrong, if anything."""
    checked = subprocess.run([program, "check", str(folder), str(acknowledged)], capture_output=True, text=True)
    return (checked.stderr.strip() or f"exit {checked.returncode}") if checked.returncode else None


def one_cut(disk, program, before, seconds, while_writing):
    """Number acknowledged before the cut, and what is wrong afterwards, if anything."""
    folder = disk.mounted / "bursar"
    folder.mkdir(exist_ok=True)
    # What stood there before this cut is not what it tests.
    os.sync()
    writer = Writer(program, folder, before)
    if while_writing:
        writer.has_news.wait(60)
    time.sleep(seconds)
    ended = writer.has_ended()
    # Read first: what arrives during the cut may or may not count.
    acknowledged = writer.acknowledged
    disk.power_off()
    complaints = writer.end()
    disk.unmount()
    disk.mount()
    if ended:
        return acknowledged, f"the writer ended before the cut: {complaints}"
    return acknowledged, check(program, folder, acknowledged)


def cuts(work, asked):
    seed = asked.seed if asked.seed is not None else random.randrange(1 << 32)
    dice = random.Random(seed)
    disk = Disk(work, 512)
    total, idle, damaged, last = 0, 0, 0, 0
    for cut in range(1, asked.cuts + 1):
        if cut == 1 or not asked.keep:
            disk.format()
            disk.mount()
            last = 0
        # Every fourth may come while the ledger opens. A disk that is kept fills more slowly, or the last cuts take minutes.
        seconds, while_writing = dice.uniform(0.02, 0.3 if asked.keep else 1.0), cut % 4 != 0
        acknowledged, wrong = one_cut(disk, asked.program, last, seconds, while_writing)
        total += acknowledged - last
        idle += acknowledged == last
        if wrong:
            damaged += 1
            print(f"cut {cut}: {acknowledged} acknowledged, and then: {wrong}", flush=True)
        last = acknowledged
        if not asked.keep or cut == asked.cuts:
            disk.unmount()
    how = "one disk" if asked.keep else "a new disk each"
    print(
        f"{asked.cuts} cuts ({how}, seed {seed}): {total} operations acknowledged, {damaged} cuts with loss or damage, "
        f"{idle} cuts before a new operation"
    )
    # A run in which hardly anything was written shows nothing.
    return damaged == 0 and idle * 3 <= asked.cuts


def full_disk(work, asked):
    """The disk fills up under the ledger: it stops by itself, and with room again everything is there."""
    disk = Disk(work, 16)
    disk.format()
    disk.mount()
    folder, ballast = disk.mounted / "bursar", disk.mounted / "ballast"
    folder.mkdir()
    ballast.write_bytes(bytes(4 << 20))
    os.sync()
    writer = Writer(asked.program, folder)
    complaints = writer.wait()
    refused = check(asked.program, folder, writer.acknowledged)
    ballast.unlink()
    wrong = check(asked.program, folder, writer.acknowledged)
    disk.unmount()
    print(
        f"full disk: {writer.acknowledged} operations acknowledged, then: {complaints.splitlines()[0]}; "
        f"opened while full: {refused or 'yes'}; with room again: {wrong or 'all there'}"
    )
    return "No space left" in complaints and wrong is None and writer.acknowledged > 0


def read_only(work, asked):
    """ext4 meets an error and becomes read-only under the ledger, as it does when a drive fails."""
    disk = Disk(work, 512)
    disk.format()
    disk.mount("errors=remount-ro")
    folder = disk.mounted / "bursar"
    folder.mkdir()
    os.sync()
    writer = Writer(asked.program, folder)
    writer.has_news.wait(60)
    device = subprocess.run(["findmnt", "-no", "SOURCE", str(disk.mounted)], capture_output=True, text=True, check=True)
    Path("/sys/fs/ext4", Path(device.stdout.strip()).name, "trigger_fs_error").write_text("told to fail")
    complaints = writer.wait()
    disk.unmount()
    # 1: the error that was noted is corrected.
    if subprocess.run(["e2fsck", "-p", "-f", str(disk.image)], capture_output=True).returncode > 1:
        sys.exit("the file system cannot be repaired")
    disk.mount()
    wrong = check(asked.program, folder, writer.acknowledged)
    disk.unmount()
    print(
        f"read-only: {writer.acknowledged} operations acknowledged, then: {complaints.splitlines()[0]}; "
        f"writable again: {wrong or 'all there'}"
    )
    return bool(complaints) and wrong is None and writer.acknowledged > 0


def private_mounts():
    """Mounts of this process alone, so that nothing stays mounted whatever happens to it."""
    CLONE_NEWNS = 0x00020000
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        sys.exit("mounts need root")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the ledger's end of it: PROGRAM write DIR, PROGRAM check DIR NUMBER")
    parser.add_argument("story", nargs="?", choices=["cuts", "full-disk", "read-only"], default="cuts")
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--keep", action="store_true", help="one file system for all cuts: blocks are used again")
    parser.add_argument("--seed", type=int, help="of an earlier run: the same moments again, as far as time allows")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("mounts need root")
    private_mounts()
    work = Path(tempfile.mkdtemp(prefix="powercut-"))
    try:
        tell = {"cuts": cuts, "full-disk": full_disk, "read-only": read_only}[asked.story]
        sys.exit(0 if tell(work, asked) else 1)
    finally:
        subprocess.run(["umount", str(work / "disk")], capture_output=True)
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
