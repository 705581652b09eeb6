#!/usr/bin/env bash
# Power cuts, a full disk and a disk that turns read-only, on file systems made for it: `tests/powercut.sh`, or with the number
# of cuts, `tests/powercut.sh 200`. Apart from the other tests, since it needs root, loop devices and e2fsprogs; what can be
# shown without them, by killing a server at each of its system calls, is in tests/it/money/killed.rs and failing_disk.rs.
set -euo pipefail
cd "$(dirname "$0")/.."

cuts=${1:-50}
cargo build --locked -p bursar-ledger --example powercut
program=${CARGO_TARGET_DIR:-target}/debug/examples/powercut
python=${PYTHON:-python3}

# All of them, also after one that failed.
failed=0
for story in "cuts --cuts $cuts" "cuts --cuts $cuts --keep" full-disk read-only; do
    # Words on purpose: a story and its options.
    # shellcheck disable=SC2086
    "$python" tests/powercut/cut.py "$program" $story || failed=1
done
exit $failed
