#!/usr/bin/env python3
"""Holds the workspace to docs/architecture/README.md: which crate may use which, what the core must not depend on, and that
no two files use each other.

    python3 tests/documents/crates.py            fails, with one line per fault
    python3 tests/documents/crates.py --write    also writes the picture of the crates into docs/architecture/README.md
    python3 tests/documents/crates.py --edges    prints the edges between files instead
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/architecture/README.md"
BEGIN, END = "<!-- crates: begin -->", "<!-- crates: end -->"

# The layers: each crate, and which of our crates it may use outside its tests.
MAY_USE = {
    "bursar-core": [],
    "bursar-home": ["bursar-core"],
    "bursar-config": ["bursar-core"],
    "bursar-net": ["bursar-core", "bursar-home"],
    "bursar-ledger": ["bursar-core", "bursar-home"],
    "bursar-rails": ["bursar-core", "bursar-home", "bursar-net", "bursar-ledger"],
    "bursar-approvals": ["bursar-core", "bursar-home", "bursar-net", "bursar-ledger"],
    "bursar-reconcile": ["bursar-core", "bursar-home", "bursar-net", "bursar-ledger", "bursar-rails"],
    "bursar-sandbox": ["bursar-core"],
    "bursar": None,  # everything
}
# The core does no I/O: none of these may be in its tree, and its rustix and jiff only with what needs no file.
NOT_IN_CORE = {"tokio", "hyper", "hyper-util", "mio", "socket2", "rustls", "sled", "tempfile", "h2", "tokio-util"}
NOT_CORE_FEATURES = {'rustix feature "fs"', 'rustix feature "net"', 'rustix feature "process"', 'jiff feature "tzdb-zoneinfo"'}
# The core modules that the sandbox may use: it must check payments with code of its own.
SANDBOX_MAY_USE = {"clock", "money"}


def cargo(*arguments):
    done = subprocess.run(["cargo", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"cargo {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def dependencies():
    packages = json.loads(cargo("metadata", "--locked", "--no-deps", "--format-version", "1"))["packages"]
    names = {package["name"] for package in packages}
    return {
        package["name"]: sorted(
            {edge["name"] for edge in package["dependencies"] if edge["kind"] is None and edge["name"] in names}
        )
        for package in packages
    }


def picture(edges):
    """Arrows that another arrow implies are left out, so that the layers can be seen."""

    def reach(name, seen):
        for used in edges[name]:
            if used not in seen:
                seen.add(used)
                reach(used, seen)
        return seen

    lines = ["```mermaid", "graph TD"]
    for name in sorted(edges):
        implied = set().union(*(reach(used, set()) for used in edges[name])) if edges[name] else set()
        lines += [f"    {name} --> {used}" for used in edges[name] if used not in implied]
    return "\n".join([*lines, "```"])


def check_walls(edges):
    for name, used in edges.items():
        if name not in MAY_USE:
            yield f"{name}: no row for it in tests/documents/crates.py"
        elif MAY_USE[name] is not None:
            for other in set(used) - set(MAY_USE[name]):
                yield f"{name} uses {other}, which is above it or beside it"


def check_core():
    tree = cargo("tree", "--locked", "-p", "bursar-core", "-e", "normal", "--prefix", "none")
    for name in {line.split()[0] for line in tree.splitlines() if line.strip()} & NOT_IN_CORE:
        yield f"bursar-core depends on {name}"
    features = cargo("tree", "--locked", "-p", "bursar-core", "-e", "normal,features", "--prefix", "none")
    for feature in NOT_CORE_FEATURES:
        if any(line.startswith(feature) for line in features.splitlines()):
            yield f"bursar-core enables {feature}"
    for path in sorted((ROOT / "crates/core/src").rglob("*.rs")):
        if is_test(path):
            continue
        for words in paths_in(code(path), "std"):
            if words[1:2] in (["fs"], ["process"]) or (words[1:2] == ["net"] and re.match("Tcp|Udp|Unix", "".join(words[2:3]))):
                yield f"{path.relative_to(ROOT)}: {'::'.join(words)}: the core does no I/O"


def check_sandbox():
    uses = 0
    for path in sorted((ROOT / "crates/sandbox/src").rglob("*.rs")):
        if "tests" in path.parts or path.name == "tests.rs":
            continue
        for words in paths_in(code(path), "bursar_core"):
            uses += 1
            if len(words) < 2 or words[1] not in SANDBOX_MAY_USE:
                yield f"{path.relative_to(ROOT)}: the sandbox uses {'::'.join(words)}"
    if not uses:
        yield "crates/sandbox/src: no use of bursar_core was found, so nothing was checked"


# Comments, strings and characters, in one pass: each can contain what looks like the beginning of another.
TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\bb?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^'\\\n])'""",
    re.S,
)


def code(path):
    """Without comments, strings and the tests at the end."""
    def blank(token):
        return ('""' if token[0][0] != "/" else "") + "\n" * token[0].count("\n")

    text = TOKEN.sub(blank, path.read_text())
    return text.split("#[cfg(test)]\nmod tests {")[0]


def is_test(path):
    return path.name in ("tests.rs", "golden.rs", "vectors.rs") or bool({"tests", "golden", "fake"} & set(path.parts))


def files_of(source):
    """Module path (a tuple) to file, of one crate."""
    found = {}
    for path in sorted(source.rglob("*.rs")):
        parts = list(path.relative_to(source).with_suffix("").parts)
        if parts[-1] in ("lib", "main", "mod"):
            parts.pop()
        if path.name != "main.rs":
            found[tuple(parts)] = path
    return found


def paths_in(text, roots="crate|super|self"):
    """Every path that begins with one of `roots`, with the braces of `use` unfolded."""
    for match in re.finditer(rf"\b({roots})((?:::\w+)*)(::\s*\{{)?", text):
        head = [match[1], *match[2].split("::")[1:]]
        if not match[3]:
            yield head
            continue
        depth, start, item = 1, match.end(), ""
        for at in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0 or (depth == 1 and text[at] == ","):
                name = re.match(r"\s*(\w+(?:::\w+)*)", item)
                if name:
                    yield head + name[1].split("::")
                item = ""
                if depth == 0:
                    break
            else:
                item += text[at]


def edges_between_files(source):
    files = files_of(source)
    edges = {}
    for module, path in files.items():
        if is_test(path):
            continue
        used = set()
        for words in paths_in(code(path)):
            at = list(module)
            if words[0] == "crate":
                at, words = [], words[1:]
            while words and words[0] in ("super", "self"):
                if words[0] == "super":
                    if not at:
                        break
                    at.pop()
                words = words[1:]
            target = tuple(at)
            for word in words:
                if (*target, word) not in files:
                    break
                target = (*target, word)
            if target != module and target in files and not is_test(files[target]):
                used.add(target)
        edges[module] = used
    return files, edges


def related(one, other):
    return one == other[: len(one)] or other == one[: len(other)]


def circles(edges):
    """Strongly connected files, once the edges between a parent and what is below it are left out."""
    graph = {name: {used for used in all_used if not related(name, used)} for name, all_used in edges.items()}
    order, seen = [], set()

    def visit(name):
        stack = [(name, iter(sorted(graph[name])))]
        seen.add(name)
        while stack:
            current, rest = stack[-1]
            for used in rest:
                if used not in seen:
                    seen.add(used)
                    stack.append((used, iter(sorted(graph[used]))))
                    break
            else:
                order.append(current)
                stack.pop()

    for name in sorted(graph):
        if name not in seen:
            visit(name)
    back = {name: {other for other in graph if name in graph[other]} for name in graph}
    assigned = set()
    for name in reversed(order):
        if name in assigned:
            continue
        group, stack = [], [name]
        assigned.add(name)
        while stack:
            current = stack.pop()
            group.append(current)
            for other in back[current]:
                if other not in assigned:
                    assigned.add(other)
                    stack.append(other)
        if len(group) > 1:
            yield sorted(group)


def sources():
    yield ROOT / "src"
    yield from sorted(ROOT.glob("crates/*/src"))


def check_circles():
    for source in sources():
        files, edges = edges_between_files(source)
        for group in circles(edges):
            names = ", ".join(str(files[name].relative_to(ROOT)) for name in group)
            yield f"these files use each other in a circle: {names}"


def main():
    if "--edges" in sys.argv:
        for source in sources():
            files, edges = edges_between_files(source)
            for name in sorted(edges):
                for used in sorted(edges[name]):
                    print(files[name].relative_to(ROOT), "->", files[used].relative_to(ROOT))
        return
    edges = dependencies()
    faults = [*check_walls(edges), *check_core(), *check_sandbox(), *check_circles()]
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    drawn, after = rest.split(END)
    wanted = f"\n{picture(edges)}\n"
    if "--write" in sys.argv:
        PAGE.write_text(f"{before}{BEGIN}{wanted}{END}{after}")
    elif drawn != wanted:
        faults.append("docs/architecture/README.md: the picture is out of date: python3 tests/documents/crates.py --write")
    for fault in faults:
        print(fault)
    arrows = sum(len(used) for used in edges.values())
    print(f"{len(edges)} crates, {arrows} edges: {f'{len(faults)} failures' if faults else 'ok'}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
