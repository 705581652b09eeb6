#!/usr/bin/env bash
# Runs all tests in a fresh clone and installs what they need: `tests/all.sh`, or `tests/all.sh FILTER` for some of
# them. `tests/all.sh --install` installs only.
#
# Needs Rust, a C compiler, Node 20 with npm, Python 3.11, and the programs of PostgreSQL 14 or newer. Anything else
# that is missing is installed inside the clone (npm packages, a Python environment) or, if run by root, from Debian.
# Tests whose needs cannot be met are reported as skipped; with CI=true or BURSAR_TEST_STRICT=1 that ends the run,
# unless this kind of machine cannot run them at all.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
if [[ ${CI:-} == true ]]; then export BURSAR_TEST_STRICT=1; fi
strict=${BURSAR_TEST_STRICT:-0}
skipped=0
features=()

say() { printf 'tests/all.sh: %s\n' "$*" >&2; }

# skip WHAT WHY: this machine could run it, but something is missing.
skip() {
    say "SKIPPED: $1, because $2"
    skipped=$((skipped + 1))
}

have() { command -v "$1" >/dev/null; }

# stamped FILE INPUT...: whether FILE was written for exactly these inputs. Keeps later runs quick.
stamped() { [[ -f $1 && $(cat "$1") == "$(stamp "${@:2}")" ]]; }
stamp() { cat "$@" | sha256sum; }

# debian PACKAGE...: installs packages if run by root; otherwise prints what is missing.
debian() {
    if [[ $(id -u) != 0 ]] || ! have apt-get; then
        say "not root on Debian, so these packages are not installed: $*"
        return 1
    fi
    say "installing Debian packages: $*"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
        >"$target/debian.log" 2>&1 || { tail -n 5 "$target/debian.log" >&2; return 1; }
}

require_compilers() {
    have cargo || { say "no cargo on the PATH; install Rust with rustup"; exit 2; }
    have cc || debian gcc libc6-dev || { say "no C compiler (cc) on the PATH"; exit 2; }
    # For libFuzzer alone, which no test needs: .ci/run says so if it is missing.
    have c++ || debian g++ || say "no C++ compiler (c++) on the PATH, so nothing can be fuzzed"
}

system_tools() {
    local missing=() name
    for name in curl wget git openssl; do have "$name" || missing+=("$name"); done
    if ((${#missing[@]} == 0)) || debian ca-certificates "${missing[@]}"; then return; fi
    for name in "${missing[@]}"; do skip "the tests that use $name" "$name is not installed"; done
}

# The chain, the facilitator, the sellers and a Node for agents: npm packages with binaries for Linux on x86_64 only.
interop_packages() {
    local what="the tests against reference sellers and a chain" log=$target/npm.log
    if [[ $(uname -sm) != "Linux x86_64" ]]; then
        say "not run on $(uname -sm): $what; their packages are for Linux on x86_64"
        return
    fi
    if ! have node || ! have npm; then skip "$what" "node and npm (20 or newer) are not installed"; return; fi
    local major
    major=$(node -p 'process.versions.node.split(".")[0]')
    if ((major < 20)); then skip "$what" "node is version $major, and 20 or newer is needed"; return; fi
    (
        cd tests/interop
        stamped node_modules/.installed package.json package-lock.json .npmrc
    ) && return
    say "installing npm packages in tests/interop (470 MB)"
    if (cd tests/interop && npm ci) >"$log" 2>&1; then
        (cd tests/interop && stamp package.json package-lock.json .npmrc >node_modules/.installed)
    else
        tail -n 5 "$log" >&2
        rm -rf tests/interop/node_modules
        skip "$what" "npm ci failed ($log)"
    fi
}

python_packages() {
    local what="the tests with Python agents" venv=$target/test-venv log=$target/python.log
    local wanted=tests/interop/agents/requirements.txt python=${PYTHON:-python3}
    if ! have "$python"; then skip "$what" "$python is not installed"; return; fi
    if ! stamped "$venv/.installed" "$wanted"; then
        say "making a Python environment in $venv"
        rm -rf "$venv"
        if ! "$python" -m venv "$venv" >"$log" 2>&1; then
            # Debian packages venv separately from Python.
            rm -rf "$venv"
            if ! { debian python3-venv && "$python" -m venv "$venv" >>"$log" 2>&1; }; then
                skip "$what" "$python -m venv failed ($log)"
                return
            fi
        fi
        if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted" >>"$log" 2>&1; then
            tail -n 5 "$log" >&2
            skip "$what" "pip could not install $wanted ($log)"
            return
        fi
        stamp "$wanted" >"$venv/.installed"
    fi
    PYTHON=$(cd "$venv/bin" && pwd)/python
    export PYTHON
}

# The tests start their own server; Debian keeps its programs off the PATH.
database_server() {
    if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || have initdb || debian postgresql; then
        features=(--features postgres)
    else
        skip "the tests of a ledger in a database" "PostgreSQL (Debian: postgresql) is not installed"
    fi
}

mkdir -p "$target"
require_compilers
system_tools
interop_packages
python_packages
database_server

if ((skipped == 0)); then
    say "nothing is skipped"
elif [[ $strict == 1 ]]; then
    say "$skipped skipped, and this run allows none (CI=true or BURSAR_TEST_STRICT=1)"
    exit 1
else
    say "$skipped skipped; see above"
fi

if [[ ${1:-} == --install ]]; then exit; fi

# Scripts check the documents against the code.
documents=0
for check in tests/documents/*.py; do python3 "$check" || documents=1; done
if ((documents != 0)); then
    say "the documents do not match the code, see above"
    exit 1
fi

# By themselves the ledger's tests use memory where they can.
export TMPDIR=${TMPDIR:-/tmp}

# Examples in the documentation run first: there may be none, and the summary that ends the output should count
# something.
cargo test --locked --workspace "${features[@]}" --doc "$@"
# The properties of fuzz/ over their seeds and over every input that ever broke one. A workspace of its own.
cargo test --locked --manifest-path fuzz/Cargo.toml --no-default-features --target-dir "$target" --tests "$@"
# One failing suite does not hide the others.
exec cargo test --locked --workspace "${features[@]}" --no-fail-fast --tests "$@"
