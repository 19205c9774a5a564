#!/usr/bin/env bash
# Measures `larder pull` against crane, skopeo and a bare receive-hash-write loop, in turn, from one registry in memory
# into stores in memory, and prints medians and ratios.
#
#   tests/bench/pull.sh
#
# Settings by environment: LARDER_BENCH_ROUNDS (5, besides one to warm up), LARDER_BENCH_LAYERS (8) of
# LARDER_BENCH_LAYER_MIB (256) each for the image "big", LARDER_BENCH_IMAGES ("big debian"), LARDER_BENCH_TOOLS
# ("larder crane skopeo floor"), LARDER_BENCH_MEMORY (/dev/shm), LARDER_BENCH_SKOPEO (another skopeo than PATH's).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# shellcheck source=tests/tools.sh
. tests/tools.sh
# shellcheck source=tests/bench/prepare.sh
. tests/bench/prepare.sh

if wants "${LARDER_BENCH_TOOLS:-larder}" larder; then build_larder; fi
cargo build --release --locked --package larder-tests --example floor
debian=
if wants "${LARDER_BENCH_IMAGES:-debian}" debian; then debian=$(make_debian); fi
export LARDER_BENCH_DEBIAN=$debian LARDER_BENCH_BIN=$target/release
exec python3 -B tests/bench/pull.py
