#!/usr/bin/env bash
# Measures the `/v2/` of `larder serve` against those who serve the same images, in turn, everything in memory: Debian's
# docker-registry 2.8.2 and distribution 3, each as origin and as pull-through cache, and nginx with plain files. Prints
# medians, ratios and targets.
#
#   tests/bench/serve.sh
#
#   manifests  32 connections ask for one manifest as fast as they can, by tag and by digest
#   blobs      1, 8 and 32 connections receive large layers and discard them
#   pull       crane pulls through a fresh cache, then again into another directory, and straight from the origin
#   first      how long the first byte of a layer takes through a fresh cache, and from the origin
#   herd       200 clients at once pull one image that nobody has: through two facades with two fetchers, a verifier and an
#              indexer on NATS and SeaweedFS ("larder"), and through one process ("embedded", and the caches)
#
# How to read it: the ratios are taken pair by pair, each round's larder against the same round's peer. "server us" and "CPU
# s/GB" are what the one that was asked spent, without the origin behind it; "servers CPU" is all of them, the origin too.
# The client takes its share of the same cores. RSS is the peak during the run, of all processes of one server. GETs are
# counted by the origin's access log. All caches answer from one origin, a docker-registry.
#
# Settings by environment: LARDER_BENCH_ROUNDS (5, besides one to warm up), LARDER_BENCH_CONTESTS ("manifests blobs pull first
# herd"), LARDER_BENCH_TOOLS ("larder nginx v3 2.8.2 v3-proxy 2.8.2-proxy embedded straight"), LARDER_BENCH_SECONDS (5, of each
# run of manifests and blobs), LARDER_BENCH_CLIENTS (200), LARDER_BENCH_IMAGES ("big debian", for pull), LARDER_BENCH_LAYERS
# (4) of LARDER_BENCH_LAYER_MIB (256) each for the image "big"; up to eight times as much memory is in use at once;
# LARDER_BENCH_MEMORY (/dev/shm).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# shellcheck source=tests/tools.sh
. tests/tools.sh
tools_install_peers
# shellcheck source=tests/bench/prepare.sh
. tests/bench/prepare.sh

tools=${LARDER_BENCH_TOOLS:-larder}
contests=${LARDER_BENCH_CONTESTS:-pull herd}
if wants "$tools" larder || wants "$tools" embedded; then build_larder; fi
cargo build --release --locked --package larder-tests --bin load
debian=
if wants "$contests" herd || { wants "$contests" pull && wants "${LARDER_BENCH_IMAGES:-debian}" debian; }; then
    debian=$(make_debian)
fi
export LARDER_BENCH_LAYERS=${LARDER_BENCH_LAYERS:-4} LARDER_BENCH_DEBIAN=$debian LARDER_BENCH_BIN=$target/release
exec python3 -B tests/bench/serve.py
