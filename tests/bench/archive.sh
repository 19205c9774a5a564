#!/usr/bin/env bash
# Measures `larder export`, `import` and `push` against those who do the same, in turn, everything in memory: stores,
# archives, registries, and what a tool puts aside on the way. Prints medians and ratios.
#
#   tests/bench/archive.sh
#
#   filesystem  a Debian image laid out as one tree: larder from its store, crane from a docker-registry, since it has none
#   oci         an image that does not compress, as an OCI archive
#   import      that archive into a fresh store
#   push        that image to an empty docker-registry, another one each time
#
# How to read it: the ratios are taken pair by pair, each round's larder against the same round's peer. RSS is the
# process's own peak. A registry's CPU is spent on the same cores. larder proves every byte it reads, also on export; the
# skopeo of Debian hashes without SHA-NI and is no fair peer where it says so: name another one.
#
# Settings by environment: LARDER_BENCH_ROUNDS (5, besides one to warm up), LARDER_BENCH_SIZE_MIB (2048; up to six times as
# much memory is in use at once), LARDER_BENCH_CONTESTS ("filesystem oci import push"), LARDER_BENCH_TOOLS ("larder crane skopeo",
# and linuxkit where LINUXKIT names one), LARDER_BENCH_MEMORY (/dev/shm), LARDER_BENCH_SKOPEO (another skopeo than PATH's).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# shellcheck source=tests/tools.sh
. tests/tools.sh
# shellcheck source=tests/bench/prepare.sh
. tests/bench/prepare.sh

if wants "${LARDER_BENCH_TOOLS:-larder}" larder; then build_larder; fi
debian=
if wants "${LARDER_BENCH_CONTESTS:-filesystem}" filesystem; then debian=$(make_debian); fi
export LARDER_BENCH_DEBIAN=$debian LARDER_BENCH_BIN=$target/release
exec python3 -B tests/bench/archive.py
