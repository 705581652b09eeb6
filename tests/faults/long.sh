#!/usr/bin/env bash
# Many more kills than the ordinary run: every kind of seller at every step of a purchase, before, within and after it, and this
# many random kills under load: `tests/faults/long.sh`, or `tests/faults/long.sh 500`. Some ten minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

BURSAR_TEST_KILLS=${1:-200} cargo test --locked --test it killed:: -- --nocapture
