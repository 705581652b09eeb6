#!/usr/bin/env python3
"""Checks docs/threats.md: its rows are numbered without a gap, no cell is empty, and every test it names exists.

    python3 tests/documents/threats.py [ROOT]

The test column of a row holds names of tests in backticks, or exactly `none yet` without backticks. A name is that of a
Rust test function anywhere under src, crates or tests, of a Python function `test_...`, or the path of a script.
Exits 1 with file:line for each fault. Needs Python 3.11 and nothing else.
"""

import re
import sys
from pathlib import Path

HEADER = ["row", "attack", "defence", "test"]
NONE = "none yet"
# A row is added here with the document; a row without a test only ever leaves.
ROWS = 79
MAY_BE_WITHOUT = {"1.4", "4.9"}
SKIPPED = {"target", "node_modules", ".git", "__pycache__"}
SCRIPTS = (".mjs", ".js", ".py", ".sh")

TEST = re.compile(r"#\[\s*(?:\w+::)*test\b")
FUNCTION = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:const\s+)?(?:async\s+)?(?:unsafe\s+)?fn\s+(\w+)")
ATTRIBUTE_OR_COMMENT = re.compile(r"^\s*(?:#\[|//)")
MACRO = re.compile(r"\bmacro_rules!\s*(\w+)")
GENERATED = re.compile(r"#\[\s*(?:\w+::)*test\b[^\n]*\]\s*(?:#\[[^\n]*\]\s*)*(?:async\s+)?fn\s+\$\w+")
ROW = re.compile(r"^(\d+)\.(\d+)$")


def files(root, *suffixes):
    for top in ("src", "crates", "tests"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in suffixes and path.is_file() and not SKIPPED.intersection(path.relative_to(root).parts):
                yield path


def block(text, start):
    """The text between the next bracket after `start` and its closing one. Good enough for macros of names."""
    pairs = {"(": ")", "[": "]", "{": "}"}
    opened = next((i for i in range(start, len(text)) if text[i] in pairs), None)
    if opened is None:
        return ""
    depth = 0
    for i in range(opened, len(text)):
        if text[i] in pairs:
            depth += 1
        elif text[i] in pairs.values():
            depth -= 1
            if depth == 0:
                return text[opened + 1 : i]
    return text[opened + 1 :]


def rust_tests(root):
    tests, functions, generated = set(), set(), set()
    for path in files(root, ".rs"):
        text = path.read_text(encoding="utf-8")
        lines = text.split("\n")
        for number, line in enumerate(lines):
            found = FUNCTION.match(line)
            if not found:
                continue
            functions.add(found[1])
            above = number - 1
            while above >= 0 and ATTRIBUTE_OR_COMMENT.match(lines[above]):
                if TEST.search(lines[above]) and not lines[above].lstrip().startswith("//"):
                    tests.add(found[1])
                above -= 1
        # Macros that write a test around each name they are given, such as the ledger's conformance suite.
        for macro in MACRO.finditer(text):
            if not GENERATED.search(block(text, macro.end())):
                continue
            for call in re.finditer(rf"\b{macro[1]}!\s*[({{\[]", text):
                generated.update(re.findall(r"(?<![\w$])[a-z]\w*\b(?!\s*::)", block(text, call.end() - 1)))
    # A name in such a list is a test only if there is a function for it to call.
    return tests | (generated & functions)


def python_tests(root):
    found = set()
    for path in files(root, ".py"):
        found.update(re.findall(r"^\s*(?:async\s+)?def\s+(test_\w+)", path.read_text(encoding="utf-8"), re.M))
    return found


def cells(line):
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
    document = root / "docs" / "threats.md"
    shown = document.relative_to(root)
    faults = []

    def fault(number, text):
        faults.append(f"{shown}:{number}: {text}")

    known = rust_tests(root) | python_tests(root)
    expected, lines_of, named, without = (1, 1), {}, set(), []
    for number, line in enumerate(document.read_text(encoding="utf-8").split("\n"), 1):
        if not line.startswith("|"):
            continue
        row = cells(line)
        if row == HEADER or all(re.fullmatch(r":?-+:?", cell) for cell in row):
            continue
        found = ROW.match(row[0])
        if not found:
            fault(number, f"{row[0]!r} is not a row number such as 1.1")
            continue
        name, place = row[0], (int(found[1]), int(found[2]))
        if name in lines_of:
            fault(number, f"row {name} is repeated; it is also in line {lines_of[name]}")
        elif place not in (expected, (expected[0] + 1, 1)) or (place != expected and expected[1] == 1):
            fault(number, f"row {name} follows where {expected[0]}.{expected[1]} should be")
        lines_of.setdefault(name, number)
        expected = max(expected, (place[0], place[1] + 1))
        if len(row) != len(HEADER):
            fault(number, f"row {name} has {len(row)} cells, not {len(HEADER)}")
            continue
        for title, cell in zip(HEADER, row):
            if not cell:
                fault(number, f"row {name}: the cell {title!r} is empty")
        tests = row[3]
        if tests == NONE:
            without.append(name)
            if name not in MAY_BE_WITHOUT:
                fault(number, f"row {name} had a test, and has none now")
            continue
        names = re.findall(r"`([^`]+)`", tests)
        if tests and (not names or re.sub(r"`[^`]+`", "", tests).strip()):
            fault(number, f"row {name}: the test cell must be names in backticks, or exactly: {NONE}")
        for test in names:
            named.add(test)
            if test.endswith(SCRIPTS):
                if not (root / test).is_file():
                    fault(number, f"row {name}: there is no file {test}")
            elif test not in known:
                fault(number, f"row {name}: there is no test {test}")
    if len(lines_of) != ROWS:
        fault(1, f"there are {len(lines_of)} rows, and there were {ROWS}")
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    listed = ": " + " ".join(without) if without else ""
    print(f"threats: {len(lines_of)} rows, {len(named)} tests named, {len(without)} none yet{listed}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
