#!/bin/sh
# `cargo bench --bench paid` with the data directory on ext4 with a journal, on ext4 without one, and on tmpfs.
#
#     sudo env "PATH=$PATH" benches/paid/filesystems.sh [ARGUMENTS of the benchmark]
#
# Needs root: it makes two loop devices in files of 2 GiB under TMPDIR (/var/tmp if that is not set), and removes them at
# the end. Both have the disk of TMPDIR beneath them, so compare the ratios of each run, not the runs.
set -eu

[ "$(id -u)" = 0 ] || { echo "filesystems.sh: loop devices and mounts need root; run it with sudo" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/var/tmp}/bursar-filesystems.XXXXXX")

end() {
    for name in journal plain tmpfs; do
        if mountpoint -q "$work/$name"; then umount "$work/$name"; fi
    done
    rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

ext4() { # NAME FEATURES
    truncate -s 2G "$work/$1.img"
    mkfs.ext4 -q -F -O "$2" "$work/$1.img"
    mkdir "$work/$1"
    # The image's own device: `mount -o loop` detaches it at the unmount.
    mount -o loop,noatime "$work/$1.img" "$work/$1"
}
ext4 journal has_journal
ext4 plain ^has_journal
mkdir "$work/tmpfs"
mount -t tmpfs -o size=2G,mode=0700 tmpfs "$work/tmpfs"

cd "$root"
for name in journal plain tmpfs; do
    case $name in
        journal) echo "== ext4 with a journal" ;;
        plain) echo "== ext4 without a journal" ;;
        tmpfs) echo "== tmpfs" ;;
    esac
    ${BENCH:-cargo bench --locked --bench paid --} --dir "$work/$name" "$@"
    echo
done
