#!/usr/bin/env bash
# Makes a real multi-platform image from Debian's packages and prints the path of its OCI layout.
#
#   tests/make-debian-image.sh [DIR [PACKAGE…]]
#
# DIR (default target/tools/fixtures/debian-12) becomes a layout with one index, tagged 12, for linux/amd64 and
# linux/arm64/v8. Packages named on the command line make one more layer for each platform. A layout that is there is
# kept. Without a mirror the files of this machine's own packages are taken: all of them for its own platform, and
# those that hold for any architecture for the other one. Needs apt-get, dpkg-deb, umoci and python3; not root.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
layout=${1:-${LARDER_TOOLS:-${CARGO_TARGET_DIR:-$root/target}/tools}/fixtures/debian-12}
extra=("${@:2}")
layers=(
    'base-files base-passwd libc6 libgcc-s1'
    'bash ca-certificates coreutils dash debconf findutils grep gzip sed tar'
    'tzdata netbase'
)
[ ${#extra[@]} = 0 ] || layers+=("${extra[*]}")

say() { printf 'debian image: %s\n' "$*" >&2; }

mkdir -p "$(dirname "$layout")"
layout=$(cd "$(dirname "$layout")" && pwd)/$(basename "$layout")
exec 9>"$layout.lock"
flock 9
if [ -f "$layout/index.json" ]; then
    printf '%s\n' "$layout"
    exit
fi

for tool in apt-get dpkg-deb dpkg-query umoci python3; do
    command -v "$tool" >/dev/null || { say "missing: $tool"; exit 1; }
done

work=$(mktemp -d "$layout.XXXXXX")
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT

# Runs apt-get for ARCH with state of its own, so that neither root nor a foreign architecture is needed.
private_apt() {
    local arch=$1 state=$work/apt-$1
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    touch "$state/status"
    HOME=$work apt-get -qq -o "Dir::State=$state" -o "Dir::State::lists=$state/lists" \
        -o "Dir::State::status=$state/status" -o "Dir::Cache=$state/cache" \
        -o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o APT::Sandbox::User= \
        -o Acquire::Languages=none -o Acquire::Retries=2 -o Debug::NoLocking=true \
        -o APT::Keep-Downloaded-Packages=true -o Binary::apt::APT::Keep-Downloaded-Packages=true "${@:2}" >&2
}

# Unpacks into TREE what the packages up to layer NUMBER need and lower layers did not have.
unpack_downloaded() {
    local arch=$1 number=$2 tree=$3 archives=$work/apt-$1/cache/archives package
    # shellcheck disable=SC2046 # a list of words is what is wanted
    private_apt "$arch" install --download-only -y --no-install-recommends \
        $(printf '%s\n' "${layers[@]:0:number+1}")
    for package in "$archives"/*.deb; do
        [ ! -e "$package.done" ] || continue
        dpkg-deb -x "$package" "$tree"
        touch "$package.done"
    done
}

# Copies into TREE the files that this machine has of layer NUMBER's packages, as far as they suit ARCH.
copy_installed() {
    local arch=$1 number=$2 tree=$3 package suits
    for package in ${layers[number]}; do
        # shellcheck disable=SC2016 # dpkg-query's own variables
        suits=$(dpkg-query -W -f '${Architecture}\n' "$package" 2>/dev/null | head -n 1) || continue
        [ "$suits" = all ] || [ "$suits" = "$arch" ] || continue
        { dpkg-query -L "$package" | while IFS= read -r path; do
            if [ -f "$path" ] && [ -r "$path" ]; then printf '%s\n' "${path#/}"; fi
        done; } | tar -C / -cf - --no-recursion -T - | tar -C "$tree" -xf - --no-same-owner
    done
}

add_layer() {
    local arch=$1 tree=$2
    if [ -f "$tree/usr/share/base-passwd/passwd.master" ]; then
        cp "$tree/usr/share/base-passwd/passwd.master" "$tree/etc/passwd"
        cp "$tree/usr/share/base-passwd/group.master" "$tree/etc/group"
    fi
    rm -rf "$tree/usr/share/doc" "$tree/usr/share/man"
    # The same files give the same layer, so that both platforms share what does not depend on them.
    tar -C "$tree" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$tree.tar" .
    umoci raw add-layer --image "$work/layout:$arch" "$tree.tar" >&2
    rm -rf "$tree" "$tree.tar"
}

make_platform() {
    local arch=$1 number tree
    umoci new --image "$work/layout:$arch"
    for number in "${!layers[@]}"; do
        tree=$work/tree-$arch-$number
        mkdir "$tree"
        "$source" "$arch" "$number" "$tree"
        [ -z "$(ls -A "$tree")" ] || add_layer "$arch" "$tree"
    done
    umoci config --image "$work/layout:$arch" --os linux --architecture "$arch" --config.cmd /bin/bash \
        --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
}

# Replaces the two tags of the layout by one index of both platforms.
merge_platforms() {
    python3 - "$work/layout" <<'PYTHON'
import hashlib, json, pathlib, sys

layout = pathlib.Path(sys.argv[1])
platforms = {"amd64": {"architecture": "amd64", "os": "linux"},
             "arm64": {"architecture": "arm64", "os": "linux", "variant": "v8"}}
NAME = "org.opencontainers.image.ref.name"
tagged = {entry["annotations"][NAME]: entry for entry in json.loads((layout / "index.json").read_text())["manifests"]}
INDEX = "application/vnd.oci.image.index.v1+json"
entries = [{"mediaType": tagged[arch]["mediaType"], "digest": tagged[arch]["digest"], "size": tagged[arch]["size"],
            "platform": platform} for arch, platform in platforms.items()]
index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, indent=2).encode()
digest = hashlib.sha256(index).hexdigest()
(layout / "blobs/sha256" / digest).write_bytes(index)
root = {"mediaType": INDEX, "digest": "sha256:" + digest, "size": len(index), "annotations": {NAME: "12"}}
(layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [root]}))
PYTHON
}

source=unpack_downloaded
if ! { private_apt amd64 update && private_apt arm64 update && [ -n "$(ls "$work/apt-arm64/lists/"*_Packages* 2>/dev/null)" ]; }; then
    say "no mirror can be reached: taking this machine's own files"
    source=copy_installed
fi
umoci init --layout "$work/layout"
for arch in amd64 arm64; do
    say "making linux/$arch"
    make_platform "$arch"
done
umoci gc --layout "$work/layout" >&2
merge_platforms
chmod -R a+rX "$work/layout"
rm -rf "$layout"
mv "$work/layout" "$layout"
printf '%s\n' "$layout"
