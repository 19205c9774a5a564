#!/usr/bin/env bash
# Measures what names cost when there are many: in a fresh store in memory, filled as another tool would, for each number of
# names. Prints medians over the rounds.
#
#   tests/bench/names.sh
#
#   adoption          the first `larder ls`, which takes in the index.json that another tool wrote
#   larder ls         the second one, from the start of the process to its end
#   find_descriptor   2,000 calls all over the store, after as many to warm up, in one process (tests/examples/names.rs)
#   descriptor_write  500 calls one after the other, half of them for new names; index.json follows behind meanwhile
#   images_in_cache   1,000 references (all, where there are fewer names) for different images in each of 20 calls; its p99 is
#                     the slowest but one
#
# How to read it: the last column has what a figure may be at most; "as of the fewest" means that a row is to be flat, give or
# take the noise. In memory a sync costs nothing: name a directory on a disk to have it counted. Peak RSS is that of the
# process that did just this.
#
# Settings by environment: LARDER_BENCH_ROUNDS (5, besides one to warm up), LARDER_BENCH_COUNTS ("100 10000 100000"),
# LARDER_BENCH_MEMORY (/dev/shm).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo build --release --locked --package larder-cli --bin larder
cargo build --release --locked --package larder-tests --example names
export LARDER_BENCH_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release
exec python3 -B tests/bench/names.py
