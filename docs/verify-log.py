#!/usr/bin/env python3
"""Verify a bursar journal without bursar. Python 3.11 or newer, standard library only.

    python3 verify-log.py D --key VKEY          verify the data directory D (or its folder audit/, or a backup)
    python3 verify-log.py D --show-key          print the VKEY that belongs to D/log.key (run by the operator, once)

It checks that every line of D/audit/seg-*.jsonl is in canonical form, numbered without a gap and chained to the line
before; that every signed checkpoint names the Merkle root of exactly those lines; and that the signatures are right.
The format is described in audit-format.md. Nothing is written.

Exit codes: 0 verified; 1 damaged or changed; 2 usage; 3 not verified, for want of a trusted key or a signed checkpoint.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
from pathlib import Path

MAX_ENTRY = 16 * 1024  # bytes of one entry, without its newline
MAX_RECORD = 4096  # a torn record at the end of checkpoints.log is shorter
VERSIONS = (1, 2)
SEGMENT = re.compile(r"seg-([0-9]{20})\.jsonl")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
SIGNED_BY = "\u2014 "  # an em dash and a space begin a signature line


class Damaged(Exception):
    """The journal or a checkpoint is not what was written."""


class Unusable(Exception):
    """The command line or a file named on it cannot be used."""


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# ---- Ed25519 (RFC 8032), verification, and the public key of a seed ----

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def add(a, b):
    """Adds two points in extended coordinates (x, y, z, t)."""
    k, m = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = m - k, d - c, d + c, m + k
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiples(point):
    """Table[i][j] = j * 16**i * point, so that a product takes 64 additions."""
    table = []
    for _ in range(64):
        row = [(0, 1, 1, 0)]
        for _ in range(15):
            row.append(add(row[-1], point))
        table.append(row)
        point = add(row[15], point)
    return table


def times(number, table):
    total = (0, 1, 1, 0)
    for row in table:
        total = add(total, row[number & 15])
        number >>= 4
    return total


def compressed(point):
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decompressed(data):
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * SQRT_M1 % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = multiples(decompressed((4 * pow(5, -1, P) % P).to_bytes(32, "little")))


def public_key(seed):
    scalar = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    return compressed(times(scalar & (1 << 254) - 8 | 1 << 254, BASE))


class Key:
    """A log's public key: NAME+HEX(key id)+BASE64(0x01 || public key)."""

    def __init__(self, name, public):
        point = decompressed(public)
        if point is None:
            raise ValueError
        self.name, self.public = name, public
        self.id = sha256(name.encode(), b"\n\x01", public)[:4]
        self.negative = multiples((P - point[0], point[1], 1, P - point[3]))

    @classmethod
    def parse(cls, text):
        try:
            name, _, encoded = text.split("+", 2)
            data = base64.b64decode(encoded, validate=True)
            key = cls(name, data[1:])
        except ValueError:
            raise Unusable(f"not a key: {text}") from None
        if len(data) != 33 or data[0] != 1 or str(key) != text:
            raise Unusable(f"not an Ed25519 key of a log, or its key id is wrong: {text}")
        return key

    @classmethod
    def of_seed(cls, text):
        kind, _, encoded = text.strip().partition(" ")
        seed = base64.b64decode(encoded)
        if kind != "ed25519-seed" or len(seed) != 32:
            raise Unusable("log.key does not hold `ed25519-seed` and 32 bytes in Base64")
        public = public_key(seed)
        return cls("bursar.local/" + sha256(public).hex()[:16], public)

    def __str__(self):
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([1]) + self.public).decode()}"

    def verifies(self, text, signature):
        r, s = signature[:32], int.from_bytes(signature[32:], "little")
        if len(signature) != 64 or s >= ORDER:
            return False
        hashed = int.from_bytes(hashlib.sha512(r + self.public + text).digest(), "little") % ORDER
        return compressed(add(times(s, BASE), times(hashed, self.negative))) == r


# ---- Checkpoints (C2SP signed-note and tlog-checkpoint) ----


class Checkpoint:
    def __init__(self, text, signatures, where):
        self.text, self.where = text, where
        try:
            self.origin, size, root, end = text.decode().split("\n")
            self.size, self.root = int(size), base64.b64decode(root, validate=True)
            self.signatures = [self.signature(line) for line in signatures.decode().split("\n")]
        except ValueError:
            raise Damaged(f"{where} is not a checkpoint") from None
        if end or str(self.size) != size or self.size < 0 or len(self.root) != 32:
            raise Damaged(f"{where} is not a checkpoint of three lines")

    @staticmethod
    def signature(line):
        if not line.startswith(SIGNED_BY):
            raise ValueError
        name, encoded = line[len(SIGNED_BY) :].split(" ")
        data = base64.b64decode(encoded, validate=True)
        return name, data[:4], data[4:]

    def is_signed_by(self, key):
        """True or False; a wrong signature under the key's own name is damage."""
        signed = False
        for name, key_id, signature in self.signatures:
            if (name, key_id) == (key.name, key.id):
                if not key.verifies(self.text, signature):
                    raise Damaged(f"{self.where}: its signature is wrong")
                signed = True
        if signed and self.origin != key.name:
            raise Damaged(f"{self.where}: it belongs to the log {self.origin}")
        return signed


def read_checkpoints(path, torn_end_allowed):
    """All notes of a file. In checkpoints.log each is followed by an empty line, and the last may be torn."""
    data = path.read_bytes()
    if not torn_end_allowed and not data.endswith(b"\n\n"):
        data += b"\n"
    parts = data.split(b"\n\n")
    whole = (len(parts) - 1) // 2
    rest = b"\n\n".join(parts[2 * whole :])
    if len(rest) > (MAX_RECORD if torn_end_allowed else 0):
        raise Damaged(f"{path}: after {whole} checkpoints it goes on with something else")
    pairs = [(parts[2 * n] + b"\n", parts[2 * n + 1]) for n in range(whole)]
    return [Checkpoint(text, signed, f"{path}, checkpoint {n + 1}") for n, (text, signed) in enumerate(pairs)]


# ---- The tree (RFC 6962, section 2.1) ----


class Tree:
    """Roots of the full subtrees, the largest first: as many as `size` has bits set."""

    def __init__(self, size=0, peaks=()):
        self.size, self.peaks = size, list(peaks)

    def append(self, leaf):
        size = self.size
        while size & 1:
            leaf, size = sha256(b"\x01", self.peaks.pop(), leaf), size >> 1
        self.peaks.append(leaf)
        self.size += 1

    def root(self):
        if not self.peaks:
            return sha256(b"")
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = sha256(b"\x01", peak, root)
        return root


# ---- Lines ----


def no_number(text):
    raise ValueError(f"{text} is not an integer")


def read_entry(line):
    """The object in a line, if the line is exactly its canonical form (RFC 8785); else ValueError."""
    if len(line) > MAX_ENTRY:
        raise ValueError(f"it is longer than {MAX_ENTRY} bytes")
    try:
        entry = json.loads(line.decode(), parse_float=no_number, parse_constant=no_number)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    canonical = json.dumps(entry, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    if not isinstance(entry, dict) or canonical.encode() != line:
        raise ValueError("it is not in canonical form")
    if entry.get("v") not in VERSIONS or isinstance(entry["v"], bool):
        raise ValueError(f"its version is {entry.get('v')}; this program reads {VERSIONS}")
    types = {"seq": int, "ts": str, "prev": str, "ev": str}
    if any(type(entry.get(name)) is not kind for name, kind in types.items()) or not TIME.fullmatch(entry["ts"]):
        raise ValueError("seq, ts, prev or ev is missing or malformed")
    return entry


def is_entry(line):
    try:
        return bool(read_entry(line))
    except (ValueError, RecursionError):
        return False


def audit_of(directory):
    return directory / "audit" if (directory / "audit").is_dir() else directory


class Journal:
    """Where the lines begin, and what was found up to the last good one."""

    def __init__(self, audit, moved):
        self.audit, self.tree, self.tip = audit, Tree(), bytes(32)
        self.segments = {}
        for folder in [audit, *map(audit_of, moved)]:
            for path in folder.iterdir():
                if match := SEGMENT.fullmatch(path.name):
                    self.segments.setdefault(int(match[1]), path)
        self.begins = 0
        pruned = audit / "pruned"
        if pruned.exists() and 0 not in self.segments:
            self.begin_after(pruned)
        self.torn = 0

    def begin_after(self, path):
        try:
            pruned = json.loads(path.read_bytes())
            self.begins, self.tip = pruned["first_seq"], bytes.fromhex(pruned["prev"])
            self.tree = Tree(pruned["tree"]["size"], map(bytes.fromhex, pruned["tree"]["peaks"]))
            sound = self.tree.size == self.begins and len(self.tree.peaks) == self.begins.bit_count()
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise Damaged(f"{path} does not say where the journal begins")

    def read(self, at_size):
        """Follows the chain; calls `at_size` with the tree after every entry."""
        at_size(self.tree)
        segments = sorted(item for item in self.segments.items() if item[0] >= self.begins)
        for number, (first, path) in enumerate(segments):
            if first != self.tree.size:
                raise Damaged(f"{path}: the entries {self.tree.size} to {first - 1} before it are missing")
            self.read_segment(path, number + 1 == len(segments), at_size)

    def read_segment(self, path, newest, at_size):
        data, position, count = path.read_bytes(), 0, 0
        length = len(data.rstrip(b"\n"))  # newlines written ahead are not part of the journal
        while position < length:
            end = data.find(b"\n", position)
            count += 1
            try:
                if end < 0:
                    raise ValueError("the line does not end")
                self.follow(data[position:end], at_size)
            except (ValueError, RecursionError) as error:
                pieces = data[position:].split(b"\n")[:-1]
                if not newest or any(map(is_entry, pieces)):
                    raise Damaged(f"{path}, line {count}: {error}") from None
                self.torn = length - position  # an unfinished last write, never acknowledged
                return
            position = end + 1

    def follow(self, line, at_size):
        entry = read_entry(line)
        if entry["seq"] != self.tree.size:
            raise ValueError(f"its seq is {entry['seq']}, expected {self.tree.size}")
        if entry["prev"] != self.tip.hex():
            raise ValueError("its prev is not the hash of the entry before")
        self.tip = sha256(b"\x00", line)
        self.tree.append(self.tip)
        at_size(self.tree)


# ---- The verdict ----


def verify(directory, key_text, kept, moved):
    audit = audit_of(directory)
    # Checkpoints first: a running server only adds entries after what it has signed.
    checkpoints = []
    for path, torn in [(audit / "checkpoints.log", True), (audit / "checkpoint", False), *((p, False) for p in kept)]:
        if path.exists():
            checkpoints += read_checkpoints(path, torn)
        elif path in kept:
            raise Unusable(f"{path} does not exist")
    journal = Journal(audit, moved)
    if not journal.segments and not checkpoints:
        raise Unusable(f"{audit} holds no journal")

    waiting = {}
    for checkpoint in checkpoints:
        waiting.setdefault(checkpoint.size, []).append(checkpoint)
    earlier = sum(len(those) for size, those in waiting.items() if size < journal.begins)

    def compare(tree):
        for checkpoint in waiting.get(tree.size, ()):
            if checkpoint.root != tree.root():
                raise Damaged(f"{checkpoint.where}: it signs other entries 0 to {tree.size - 1} than the journal has")

    journal.read(compare)
    size = journal.tree.size
    signed_size = max(waiting, default=0)
    if signed_size > size:
        raise Damaged(f"{signed_size} entries were signed, and {size} are here: the end of the journal is missing")

    key, found = None, False
    if key_text:
        key = Key.parse(key_text)
    elif (directory / "log.key").exists():
        key, found = Key.of_seed((directory / "log.key").read_text()), True
    unsigned = [c for c in checkpoints if not (key and c.is_signed_by(key))]
    if key and 0 < len(unsigned) < len(checkpoints):
        raise Damaged(f"{unsigned[0].where}: it is not signed by {key}, as others are")

    print(f"entries        {journal.begins} to {size - 1}, in one chain" if size else "entries        none")
    print(f"checkpoints    {len(checkpoints)}, the newest over {signed_size} entries")
    if earlier:
        print(f"               {earlier} of them over entries that were moved away: roots not compared")
    if size > signed_size:
        print(f"not signed     the {size - signed_size} newest entries: no checkpoint covers them yet")
    if journal.torn:
        print(f"torn           {journal.torn} bytes of an unfinished write at the end; never acknowledged")
    if not checkpoints:
        return 3, "nothing is signed: there is no checkpoint"
    if key is None:
        return 3, "no trusted key: the chain and the roots agree, the signatures were not checked. Give --key VKEY"
    if unsigned:
        return 3, f"no checkpoint is signed by {key}: the chain and the roots agree, but nobody you trust has signed them"
    print(f"signed by      {key}")
    if found:
        return 3, "no trusted key: this key lies beside the journal. Get it from the operator another way, and give --key VKEY"
    return 0, "verified"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="D")
    parser.add_argument("--key", metavar="VKEY", help="the log's public key, obtained from the operator beforehand")
    parser.add_argument("--show-key", action="store_true", help="print the public key that belongs to D/log.key")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], metavar="FILE",
                        help="a checkpoint that you kept elsewhere; it must fit, too (may be repeated)")
    parser.add_argument("--moved", type=Path, action="append", default=[], metavar="FOLDER",
                        help="segments that `bursar retain` moved away (may be repeated)")
    given = parser.parse_args()
    try:
        if given.show_key:
            print(Key.of_seed((given.directory / "log.key").read_text()))
            return 0
        code, verdict = verify(given.directory, given.key, given.checkpoint, given.moved)
    except Damaged as damage:
        print(f"damaged or changed: {damage}")
        return 1
    except (Unusable, OSError) as error:
        print(f"verify-log.py: {error}", file=sys.stderr)
        return 2
    print(verdict)
    return code


if __name__ == "__main__":
    sys.exit(main())
