#!/usr/bin/env bash
# Checks the image without a container engine: builds the binary with the steps of docker/Dockerfile, and runs it in an
# empty root as the image's user, first the demo, then the services of docker/compose.yaml. The empty root needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
platform=$(uname -m)-unknown-linux-gnu
binary=$target_dir/$platform/dist/bursar
uid=10001

say() { printf 'docker/check.sh: %s\n' "$*"; }

# As in the Dockerfile: only the files that it copies, and the same flags.
build() {
    local context=$target_dir/docker-context
    rm -rf "$context"
    mkdir -p "$context"
    cp -a Cargo.toml Cargo.lock crates src "$context"
    (
        cd "$context"
        RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' \
            CARGO_TARGET_DIR=$target_dir cargo build --locked --profile dist --bin bursar --target "$platform"
    )
    rm -rf "$context"
    if ldd "$binary" 2>/dev/null | grep -q '=>'; then
        say "$binary is not static"
        return 1
    fi
    say "built: $(stat -c %s "$binary") bytes, static"
}

# The image's files, plus names for the loopback.
empty_root() {
    root=$(mktemp -d)
    trap 'stop; rm -rf "$root"' EXIT
    mkdir -p "$root"/{data,trust,tmp,etc}
    cp "$binary" "$root/bursar"
    printf '127.0.0.1 localhost seller\n' >"$root/etc/hosts"
    chmod 755 "$root"
    chmod 700 "$root/data"
    chown -R $uid:$uid "$root"/{data,trust,tmp}
}

# As compose.yaml sets them.
environment=(BURSAR_DIR=/data "STRIPE_SECRET_KEY=$(sed -n 's/^ *STRIPE_SECRET_KEY: //p' docker/compose.yaml)")

inside() { env -i "${environment[@]}" "$(command -v chroot)" --userspec=$uid:$uid "$root" /bursar "$@"; }

running=()
stop() {
    if ((${#running[@]})); then
        kill "${running[@]}" 2>/dev/null || true
        # They are not our children once their output is a pipe; they have ended when their ids are gone.
        for process in "${running[@]}"; do tail --pid="$process" -f /dev/null; done
    fi
    running=()
}

# start WORDS COMMAND...: a server in the empty root; sets `said` to what follows WORDS in its first line.
start() {
    local words=$1 line
    shift
    exec {output}< <(exec env -i "${environment[@]}" "$(command -v chroot)" --userspec=$uid:$uid "$root" /bursar "$@" 2>"$root/log")
    running+=($!)
    if ! read -r -t 60 line <&"$output" || [[ $line != "$words "* ]]; then
        say "bursar $1 did not start:"
        cat "$root/log"
        return 1
    fi
    said=${line#"$words "}
}

demo() {
    inside demo >"$target_dir/docker-demo.txt"
    grep -q 'settled .* https://localhost/v2/quote' "$target_dir/docker-demo.txt"
    grep -q 'settled .* https://localhost/mpp/report' "$target_dir/docker-demo.txt"
    say "bursar demo: bought and refused what it should, in an empty root, as uid $uid"
}

# compose.yaml with everything on the loopback.
story() {
    local seller token proxy status
    inside init --wallet >/dev/null
    start "selling on" sandbox --listen 127.0.0.1:0 --name seller --ca-out /trust/seller-ca.pem
    seller=https://seller:${said##*:}
    sed -e 's|0\.0\.0\.0:8402|127.0.0.1:0|' -e 's|172\.28\.84\.0/24|127.0.0.1/32|' -e "s|https://seller:8443|$seller|" \
        docker/example/bursar.toml >"$root/data/bursar.toml"
    cp docker/example/limits.toml "$root/data/limits.toml"
    token=$(inside agents add research 2>/dev/null)
    start "listening on" serve
    proxy=${said/http:\/\//http://research:$token@}
    for expected in /free:200 /v2/quote:200 /v1/weather:200 /mpp/report:200 /v2/dataset:403; do
        status=$(env -u no_proxy -u NO_PROXY curl --silent --output /dev/null --write-out '%{http_code}' \
            --proxy "$proxy" --cacert "$root/data/ca.pem" "$seller${expected%:*}")
        if [[ $status != "${expected#*:}" ]]; then
            say "GET ${expected%:*} gave $status, not ${expected#*:}"
            cat "$root/log"
            return 1
        fi
    done
    if [[ $(inside payments list --json --state settled | wc -l) != 3 ]]; then
        say "the ledger does not show three settled payments"
        return 1
    fi
    stop
    say "the files of docker/example: three articles bought over x402 and MPP, a costly one refused, the ledger agrees"
}

compose_syntax() {
    if docker compose version >/dev/null 2>&1; then
        docker compose -f docker/compose.yaml config --quiet
        say "docker compose config: valid"
    else
        say "compose.yaml: not checked, there is no docker compose client here"
    fi
}

compose_syntax
build
if [[ $(id -u) != 0 ]]; then
    say "the binary was not run: an empty root needs chroot, which needs root"
    exit 0
fi
empty_root
demo
story
