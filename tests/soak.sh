#!/usr/bin/env bash
# Whether the memory of a ledger stays flat over many payments: `tests/soak.sh`, or with their number, `tests/soak.sh 200000`.
# With `--binary` first, through a real server with a real seller. Ends with 1 if the memory of the second half has grown by
# more than 5 %. What is measured, and the last result: benches/README.md, "Soak". A million payments take some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --binary ]; then
    cargo bench --locked --bench paid -- --only soak --payments "${2:-100000}"
else
    cargo bench --locked -p bursar-ledger --bench ledger -- --only soak --payments "${1:-1000000}" --seconds 1200
fi
