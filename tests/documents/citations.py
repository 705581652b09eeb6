#!/usr/bin/env python3
"""Checks that what code and documents cite exists, and that links in documents lead somewhere.

    python3 tests/documents/citations.py

* a rule such as R41 has its heading in docs/rules.md, and every rule there is cited outside of that page;
* `x402 §4.1`, `MPP §9.3` and `approvals §8.1` have their headings in docs/protocols/;
* `threat 1.22` has its row in docs/threats.md;
* citations of forms that are no longer used are gone;
* every relative link and every #anchor in a Markdown file of the repository resolves (anchors as GitHub makes them).

Prints `file:line: what` for each failure and exits 1; else one line that ends with `ok`. Python 3.11, no dependencies.
"""

import re
import sys
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "crates", "tests", "benches", "docker", "docs")
ENDINGS = {".rs", ".toml", ".md", ".sh", ".py", ".mjs"}
SKIPPED = {"target", "node_modules", ".git"}
PAGES = {"x402": "x402.md", "MPP": "mpp.md", "approvals": "approvals.md"}

# A comment line by language; for Rust and JavaScript also a comment that follows code.
COMMENT = {
    ".rs": re.compile(r"^\s*//[/!]?(.*)|(?:^|\s)//\s(.*)"),
    ".mjs": re.compile(r"^\s*(?://|/?\*+)(.*)|(?:^|\s)//\s(.*)"),
    ".toml": re.compile(r"(?:^|\s)#(.*)"),
    ".sh": re.compile(r"(?:^|\s)#(.*)"),
    ".py": re.compile(r"(?:^|\s)#(.*)"),
}
FENCE = re.compile(r"^\s*(```|~~~)")

SECTION = r"§\d+(?:\.\d+)*(?:,?\s+(?:check|step|rule)\s+\d+)?"
SECTIONS = re.compile(rf"\b(x402|MPP|approvals)\s+({SECTION}(?:(?:,\s+(?:and\s+)?|\s+(?:and|or|to)\s+){SECTION})*)")
RULE = re.compile(r"(?<![\w/+=])R(\d{1,3})(?![\w/+=])")
RULE_RANGE = re.compile(r"(?<![\w/+=])R(\d{1,3})\s+to\s+R(\d{1,3})(?![\w/+=])")
THREATS = re.compile(r"\b[Tt]hreats?\s+(\d+\.\d+(?:(?:,\s+(?:and\s+)?|\s+(?:and|or|to)\s+)\d+\.\d+)*)")
# Brackets keep the patterns from finding themselves.
FORMER = re.compile(
    r"\b[Rr]uling[s]?\b|\b[Dd]igest[s]?,?\s+§"
    r"|\b(?:x402|mpp|MPP|approvals|ledger|proxying|product|dependencies)\s+digest[s]?\b|\bmpp\s+§"
)
STANDARD = re.compile(r"\b(?:RFC|EIP|TIP|CAIP)[ -]?\d+,?\s+§[\d.]*\d(?:(?:,\s+|\s+(?:and|or|to)\s+)§[\d.]*\d)*")

HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
NUMBERED = re.compile(r"^(\d+(?:\.\d+)*)\.?\s")
RULE_HEADING = re.compile(r"^R(\d{1,3})\. \S")
THREAT_ROW = re.compile(r"^\|\s*(\d+\.\d+)\s*\|")
CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
LINK = re.compile(r"\]\(\s*<?([^()\s<>]*(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)")
DEFINITION = re.compile(r"^\s{0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)")
HTML_LINK = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=[\"']([^\"']+)[\"']")
HTML_ANCHOR = re.compile(r"<[a-z]+\b[^>]*?\b(?:id|name)=[\"']([^\"']+)[\"']")


@dataclass
class Text:
    """The prose of a file: its comments, or a document outside of code blocks. Line breaks count as blanks."""

    path: Path
    whole: str
    said: str = ""
    starts: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def line(self, at: int) -> int:
        return self.numbers[bisect_right(self.starts, at) - 1]


@dataclass
class Document:
    """A Markdown file: its lines outside of code blocks, and where its headings are."""

    lines: list[tuple[int, str]]
    headings: list[tuple[int, str]]
    anchors: set[str]


class Report:
    def __init__(self) -> None:
        self.failures: list[tuple[str, int, str]] = []

    def add(self, path: Path, line: int, what: str) -> None:
        self.failures.append((path.relative_to(ROOT).as_posix(), line, what))


def files(endings: set[str], folders: tuple[str, ...] | None) -> list[Path]:
    """Text files below the root; of `folders` only, and of the root itself Markdown and TOML, where folders are given."""
    found: list[Path] = []

    def walk(folder: Path) -> None:
        for entry in sorted(folder.iterdir()):
            if entry.name in SKIPPED or entry.is_symlink():
                continue
            if entry.is_dir():
                if folders is None or folder != ROOT or entry.name in folders:
                    walk(entry)
            elif entry.suffix in endings and (folders is None or folder != ROOT or entry.suffix in {".md", ".toml"}):
                found.append(entry)

    walk(ROOT)
    return found


def prose(path: Path, lines: list[str]) -> list[tuple[int, str]]:
    """The lines of a Markdown text outside of fenced code, numbered from 1."""
    kept: list[tuple[int, str]] = []
    fence = ""
    for number, line in enumerate(lines, 1):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1] == fence:
            fence = ""
        elif not fence:
            kept.append((number, line))
    if fence:
        sys.exit(f"{path.relative_to(ROOT)}: a code block is never closed, so the rest of the page would not be checked")
    return kept


def read(path: Path) -> Text:
    whole = path.read_text(encoding="utf-8")
    lines = whole.split("\n")
    if path.suffix == ".md":
        said = prose(path, lines)
    else:
        matches = ((number, COMMENT[path.suffix].search(line)) for number, line in enumerate(lines, 1))
        said = [(number, next(part for part in match.groups() if part is not None)) for number, match in matches if match]
    text = Text(path, whole)
    parts: list[str] = []
    at, previous = 0, 0
    for number, line in said:
        # Comments on separate lines are separate sentences.
        part = ("" if number == previous + 1 else "\0\n") + line + "\n"
        text.starts.append(at)
        text.numbers.append(number)
        parts.append(part)
        at, previous = at + len(part), number
    text.said = "".join(parts)
    return text


def anchor(heading: str) -> str:
    """The anchor as GitHub makes it, without the number that distinguishes equal ones."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"<[^>]+>", "", text).replace("`", "")
    text = re.sub(r"(?<!\w)([*_]{1,3})(?=\S)(.+?)(?<=\S)\1(?!\w)", r"\2", text)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def document(path: Path) -> Document:
    lines = prose(path, path.read_text(encoding="utf-8").split("\n"))
    headings: list[tuple[int, str]] = []
    anchors: set[str] = set()
    before = ""
    for number, line in lines:
        match = HEADING.match(line)
        title = match[2] if match else None
        if title is None and re.fullmatch(r"\s{0,3}(=+|-{2,})\s*", line) and before.strip() and "|" not in before:
            title = before.strip()
        if title is not None:
            headings.append((number, title))
            name, count = anchor(title), 1
            unique = name
            while unique in anchors:
                unique, count = f"{name}-{count}", count + 1
            anchors.add(unique)
        anchors.update(HTML_ANCHOR.findall(line))
        before = line
    return Document(lines, headings, anchors)


def rules(report: Report) -> dict[int, int]:
    """Number and line of each rule."""
    path = ROOT / "docs/rules.md"
    found: dict[int, int] = {}
    if not path.is_file():
        report.add(path, 1, "the page is missing")
        return found
    for line, title in document(path).headings:
        match = RULE_HEADING.match(title)
        if match and int(match[1]) in found:
            report.add(path, line, f"R{match[1]} is defined twice")
        elif match:
            found[int(match[1])] = line
    return found


def sections(report: Report) -> dict[str, set[str]]:
    """The numbers of the headings of each protocol's page."""
    found: dict[str, set[str]] = {}
    for name, file in PAGES.items():
        path = ROOT / "docs/protocols" / file
        found[name] = set()
        if not path.is_file():
            report.add(path, 1, "the page is missing")
            continue
        for line, title in document(path).headings:
            match = NUMBERED.match(title)
            if match and match[1] in found[name]:
                report.add(path, line, f"section {match[1]} is defined twice")
            elif match:
                found[name].add(match[1])
    return found


def threats(report: Report) -> set[str]:
    path = ROOT / "docs/threats.md"
    if not path.is_file():
        report.add(path, 1, "the page is missing")
        return set()
    matches = map(THREAT_ROW.match, path.read_text(encoding="utf-8").split("\n"))
    return {match[1] for match in matches if match}


def threat_numbers(listed: str) -> list[str]:
    """Every row that a list such as `1.6, 1.7` or `1.16 to 1.20` names."""
    numbers: list[str] = []
    tokens = re.findall(r"to|\d+\.\d+", listed)
    for place, token in enumerate(tokens):
        if token != "to":
            numbers.append(token)
            continue
        first, last = (tokens[place - 1].split("."), tokens[place + 1].split("."))
        if first[0] == last[0]:
            numbers += [f"{first[0]}.{row}" for row in range(int(first[1]) + 1, int(last[1]))]
    return numbers


class Citations:
    """Checks every text once."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.rules, self.sections, self.threats = rules(report), sections(report), threats(report)
        self.cited: set[int] = set()
        self.counts = {"rules": 0, "sections": 0, "threats": 0}

    def look(self, text: Text) -> None:
        self.rules_in(text)
        self.sections_in(text)
        self.threats_in(text)
        for number, line in enumerate(text.whole.split("\n"), 1):
            for match in FORMER.finditer(line):
                self.report.add(text.path, number, f"`{match[0]}`: cite docs/rules.md or docs/protocols instead")

    def rules_in(self, text: Text) -> None:
        named = [(match.start(), int(match[1])) for match in RULE.finditer(text.said)]
        for match in RULE_RANGE.finditer(text.said):
            # Gaps between the ends are numbers that no rule has.
            between = range(int(match[1]) + 1, int(match[2]))
            named += [(match.start(), number) for number in between if number in self.rules]
        for at, number in named:
            self.counts["rules"] += 1
            if number not in self.rules:
                self.report.add(text.path, text.line(at), f"R{number} is not in docs/rules.md")
            elif text.path != ROOT / "docs/rules.md":
                self.cited.add(number)

    def sections_in(self, text: Text) -> None:
        for match in SECTIONS.finditer(text.said):
            for number in re.findall(r"§([\d.]*\d)", match[2]):
                self.section(text, match.start(), match[1], number)
        own = [name for name, file in PAGES.items() if text.path == ROOT / "docs/protocols" / file]
        if own:
            # A bare section number on such a page refers to that page.
            blanked = re.sub(f"{SECTIONS.pattern}|{STANDARD.pattern}", lambda match: " " * len(match[0]), text.said)
            for match in re.finditer(r"§([\d.]*\d)", blanked):
                self.section(text, match.start(), own[0], match[1])

    def section(self, text: Text, at: int, name: str, number: str) -> None:
        self.counts["sections"] += 1
        if number not in self.sections[name]:
            page = f"docs/protocols/{PAGES[name]}"
            self.report.add(text.path, text.line(at), f"{name} §{number} has no heading in {page}")

    def threats_in(self, text: Text) -> None:
        for match in THREATS.finditer(text.said):
            for number in threat_numbers(match[1]):
                self.counts["threats"] += 1
                if number not in self.threats:
                    self.report.add(text.path, text.line(match.start()), f"threat {number} has no row in docs/threats.md")

    def uncited(self) -> None:
        for number, line in self.rules.items():
            if number not in self.cited:
                self.report.add(ROOT / "docs/rules.md", line, f"R{number} is cited nowhere: remove it")


# The longest README that a newcomer reads in one sitting.
README_BYTES = 8192


def links(report: Report) -> int:
    """Checks every link in every Markdown file; returns how many lead into the repository."""
    documents = {path: document(path) for path in files({".md"}, None)}
    count = 0
    for path, this in documents.items():
        for number, line in this.lines:
            plain = CODE_SPAN.sub("", line)
            targets = LINK.findall(plain) + DEFINITION.findall(plain) + HTML_LINK.findall(plain)
            for target in targets:
                if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//", target):
                    continue
                count += 1
                name, _, fragment = target.partition("#")
                name = unquote(name.partition("?")[0])
                base = ROOT if name.startswith("/") else path.parent
                there = (base / name.lstrip("/")).resolve() if name else path
                if not there.exists():
                    report.add(path, number, f"the link to {target} leads nowhere")
                elif not there.is_relative_to(ROOT):
                    report.add(path, number, f"the link to {target} leads out of the repository")
                elif fragment and there in documents and unquote(fragment) not in documents[there].anchors:
                    report.add(path, number, f"the link to {target} names no heading there")
    return count


def main() -> int:
    report = Report()
    citations = Citations(report)
    for folder in FOLDERS:
        if not (ROOT / folder).is_dir():
            report.add(ROOT / folder, 1, "there is no such folder, so it was not checked")
    for path in files(ENDINGS, FOLDERS):
        citations.look(read(path))
    citations.uncited()
    followed = links(report)
    readme = ROOT / "README.md"
    if readme.stat().st_size > README_BYTES:
        report.add(readme, 1, f"{readme.stat().st_size} bytes; a first page has at most {README_BYTES}")
    for path, line, what in sorted(set(report.failures)):
        print(f"{path}:{line}: {what}")
    counts = citations.counts
    if not all((counts["rules"], counts["sections"], counts["threats"], followed)):
        print("a kind of citation was found nowhere, so it was not checked")
        return 1
    summary = (
        f"{counts['rules']} citations of {len(citations.rules)} rules, {counts['sections']} of protocol sections, "
        f"{counts['threats']} of threats, {followed} links"
    )
    if report.failures:
        print(f"{summary}: {len(set(report.failures))} failures")
        return 1
    print(f"{summary}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
