"""Runs the contestants of tests/bench/archive.sh in turn and prints what they took."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from contest import BIN, LINUXKIT, MEMORY, MIB, SKOPEO, compare, measure, report, say_versions
from images import ARCHITECTURE, MANIFEST, NAME, Layout, named, noise_layer
from registry import Registry

SIZE_MIB = int(os.environ.get("LARDER_BENCH_SIZE_MIB", "2048"))
LAYERS = 8
PEERS = "larder crane skopeo" + (" linuxkit" if LINUXKIT else "")
TOOLS = os.environ.get("LARDER_BENCH_TOOLS", PEERS).split()
CONTESTS = os.environ.get("LARDER_BENCH_CONTESTS", "filesystem oci import push").split()

PLATFORM = f"linux/{ARCHITECTURE}"
BIG = "bench.example/big:1"
DEBIAN = "bench.example/debian:1"
AIMS = {
    "filesystem": "debian as one tree; aim: at most 0.5 of crane's wall",
    "oci": "big as an OCI archive; aim: at most the wall of the best peer with SHA-NI",
    "import": "big from an OCI archive; aim: at most 0.8 of skopeo's wall",
    "push": "big to an empty registry; aim: at most 1.05 of crane's wall",
}


class Kit:
    """What the contestants start from, below `directory`. Stores are OCI layouts, which all of them read."""

    def __init__(self, directory):
        self.directory = directory
        self.big, self.debian, self.archive = directory / "big", directory / "debian", directory / "big.tar"
        self.origin = None

    def fill(self):
        if set(CONTESTS) != {"filesystem"}:
            layout = Layout(self.big)
            digest, size = layout.add(noise_layer(seed, SIZE_MIB * MIB // LAYERS) for seed in range(LAYERS))
            layout.list([named(BIG, MANIFEST, digest, size)])
        if "import" in CONTESTS:
            subprocess.run([SKOPEO, "copy", "--quiet", f"oci:{self.big}:{BIG}", f"oci-archive:{self.archive}:{BIG}"],
                           check=True, env={**os.environ, "TMPDIR": str(self.directory)})
        if "filesystem" in CONTESTS:
            self.fill_debian()

    def fill_debian(self):
        shutil.copytree(os.environ["LARDER_BENCH_DEBIAN"], self.debian)
        index = json.loads((self.debian / "index.json").read_text())
        index["manifests"][0]["annotations"][NAME] = DEBIAN
        (self.debian / "index.json").write_text(json.dumps(index))
        folder = self.directory / "origin"
        folder.mkdir()
        self.origin = Registry(folder)
        subprocess.run([SKOPEO, "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false",
                        f"oci:{self.debian}:{DEBIAN}", f"docker://{self.origin.host}/debian:1"], check=True)


def larder(store, *arguments):
    return [str(BIN / "larder"), "--quiet", "--store", f"file://{store}", *arguments]


def crane(*arguments):
    return ["crane", "--insecure", *arguments]


def skopeo(source, target):
    return [SKOPEO, "copy", "--quiet", source, target]


def linuxkit(store, *arguments):
    return [LINUXKIT, "--quiet", "--cache", str(store), "cache", *arguments]


TREE = ["export", "--format", "filesystem", "--platform", PLATFORM]
# What a tool is started with, by contest: from what a kit has, to `out` or to a registry.
COMMANDS = {
    "filesystem": {
        "larder": lambda kit, out, _: larder(kit.debian, *TREE, "--output", out, DEBIAN),
        "crane": lambda _, out, host: crane("export", "--platform", PLATFORM, f"{host}/debian:1", out),
        "linuxkit": lambda kit, out, _: linuxkit(kit.debian, *TREE, "--outfile", out, DEBIAN),
    },
    "oci": {
        "larder": lambda kit, out, _: larder(kit.big, "export", "--output", out, BIG),
        "skopeo": lambda kit, out, _: skopeo(f"oci:{kit.big}:{BIG}", f"oci-archive:{out}:{BIG}"),
        "linuxkit": lambda kit, out, _: linuxkit(kit.big, "export", "--platform", PLATFORM, "--outfile", out, BIG),
    },
    "import": {
        "larder": lambda kit, out, _: larder(out, "import", str(kit.archive)),
        "skopeo": lambda kit, out, _: skopeo(f"oci-archive:{kit.archive}:{BIG}", f"oci:{out}:{BIG}"),
    },
    "push": {
        "larder": lambda kit, _, host: larder(kit.big, "push", "--remote-name", f"{host}/big:1", BIG),
        "crane": lambda kit, _, host: crane("push", str(kit.big), f"{host}/big:1"),
        "linuxkit": lambda kit, _, host: linuxkit(kit.big, "push", "--remote-name", f"{host}/big:1", BIG),
    },
}


def once(contest, tool, kit):
    """Runs from what a kit has to what was not there before."""
    home = kit.directory / "home"
    home.mkdir()
    # A registry that has had an image takes it the second time for nothing.
    registry = Registry(home) if contest == "push" else kit.origin
    try:
        os.sync()
        host = registry.host if registry else None
        return measure(COMMANDS[contest][tool](kit, str(home / "out"), host), home, registry)
    finally:
        if contest == "push":
            registry.stop()
        shutil.rmtree(home)


def main():
    for contest in CONTESTS:
        if contest not in COMMANDS:
            sys.exit(f"no such contest: {contest}")
    kit = Kit(pathlib.Path(tempfile.mkdtemp(prefix="larder-bench-", dir=MEMORY)))
    try:
        say_versions(TOOLS)
        print(f"big has {SIZE_MIB} MiB in {LAYERS} layers")
        kit.fill()
        for contest in CONTESTS:
            tools = [tool for tool in TOOLS if tool in COMMANDS[contest]]
            results = compare(contest, tools, lambda tool: once(contest, tool, kit))
            keys = ["wall", "cpu", "rss"] + (["origin"] if contest in ("filesystem", "push") else [])
            report(f"{contest} ({AIMS[contest]})", results, keys)
    finally:
        if kit.origin:
            kit.origin.stop()
        shutil.rmtree(kit.directory)


if __name__ == "__main__":
    main()
