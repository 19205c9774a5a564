#!/usr/bin/env bash
# Builds larder and shows its main job: an image comes in, is verified, listed and exported, and is there the next time.
#
#   deploy/quickstart.sh             with an image made from this machine's files, served by a registry on loopback
#   deploy/quickstart.sh IMAGE       with IMAGE from its registry; without a network, as above
#
# Needs a Rust toolchain (with its C compiler) and nothing else. Leaves the build in target/, and nothing of the demonstration.
# The build is of the profile "quick", which spares most optimisations; `cargo build --release` makes the binary to keep.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Empty is worse than absent: without it, programs look the home directory up.
[ -n "${HOME:-}" ] || unset HOME
# These belong to the tests, and larder refuses settings that it does not know.
unset LARDER_BIN LARDER_TOOLS

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
plain() { printf '\n%s\n' "$*" >&2; }
[ -t 2 ] || say() { plain "$@"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

[ $# -le 1 ] || fail 'usage: deploy/quickstart.sh [IMAGE]'
command -v cargo >/dev/null || fail 'no cargo here: install Rust from https://rustup.rs'
command -v cc >/dev/null || fail 'no C compiler here, which Rust needs to link: install gcc or clang'
image=${1:-}

target=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
work=$(mktemp -d "$target/quickstart.XXXXXX")
registry=
cleanup() {
    close_registry
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs larder on a cache of its own, shows the command, and says how long it took.
larder() {
    printf '\n$ larder %s\n' "$*" >&2
    local begun=$EPOCHREALTIME status=0
    "$target/quick/larder" --store "file://$work/cache" --bus mem: "$@" || status=$?
    local ended=$EPOCHREALTIME
    local ms=$(( (${ended/./} - ${begun/./}) / 1000 ))
    printf '  [%d.%03d s]\n' $((ms / 1000)) $((ms % 1000)) >&2
    return "$status"
}

build() {
    cargo build --profile quick --locked "$@"
}

# Serves an image made from this machine's files, and names it in $image.
open_registry() {
    mkfifo "$work/stop" "$work/said"
    "$target/quick/registry" <"$work/stop" >"$work/said" &
    registry=$!
    exec 3>"$work/stop" # it serves as long as this is open, so it ends with this script, however that ends
    IFS= read -r image <"$work/said" || fail 'the throwaway registry did not start'
}

close_registry() {
    [ -n "$registry" ] || return 0
    exec 3>&-
    wait "$registry" || true
    registry=
}

# Pulls $image. Fails when its registry did not give it (exit code 1); a wrong name or a wrong byte ends the script.
pull_named() {
    local status=0
    # Whoever is offline need not wait for many tries.
    LARDER_REGISTRY__RETRIES_MAX=${LARDER_REGISTRY__RETRIES_MAX:-1} \
        LARDER_REGISTRY__CONNECT_TIMEOUT_MS=${LARDER_REGISTRY__CONNECT_TIMEOUT_MS:-5000} \
        larder pull "$image" || status=$?
    [ "$status" -le 1 ] || exit "$status"
    return "$status"
}

pulled=
if [ -z "$image" ]; then
    say 'Building larder and a throwaway registry'
    build --package larder-cli --bin larder --package larder-tests --bin registry
else
    say 'Building larder'
    build --package larder-cli --bin larder
    say "Pulling $image"
    if pull_named; then
        pulled=yes
    else
        say "Its registry did not give $image (see above): going on with an image made from this machine's files"
        build --package larder-tests --bin registry
    fi
fi
if [ -z "$pulled" ]; then
    open_registry
    say "Pulling an image for two platforms, made from this machine's files: first for this one, then the rest of it"
    larder pull "$image"
    larder pull --platform all "$image"
    close_registry
    say 'The registry is gone: from here on there is only the cache'
fi

say 'Looking at it: every byte is hashed again'
larder verify "$image"
larder ls
larder inspect "$image"

say 'Taking it out: an OCI archive, as skopeo, podman and docker read it'
larder export "$image" --output "$work/image.tar"
printf '  %s bytes\n' "$(wc -c <"$work/image.tar")" >&2

say 'Pulling it again: nothing is fetched'
larder pull "$image"

say 'Done'
cat >&2 <<END
  Your own cache is \${XDG_CACHE_HOME:-~/.cache}/larder unless you give --store:
    $target/quick/larder pull debian:12
    $target/quick/larder --help
  The binary to keep, with all optimisations, takes longer to build and is target/release/larder then:
    cargo build --release --locked --package larder-cli
END
