"""Runs the contestants of tests/bench/pull.sh in turn and prints what they took."""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from contest import BIN, MEMORY, MIB, SKOPEO, compare, measure, report, say_versions
from images import MANIFEST, image, noise_layer
from registry import Registry

LAYERS = int(os.environ.get("LARDER_BENCH_LAYERS", "8"))
LAYER_MIB = int(os.environ.get("LARDER_BENCH_LAYER_MIB", "256"))
IMAGES = os.environ.get("LARDER_BENCH_IMAGES", "big debian").split()
TOOLS = os.environ.get("LARDER_BENCH_TOOLS", "larder crane skopeo floor").split()

WARM_RUNS = 3
TAG = "bench"


def push_big(registry):
    layers = (noise_layer(seed, LAYER_MIB * MIB) for seed in range(LAYERS))
    manifest = image(layers, lambda digest, body: registry.push_blob("big", digest, body))
    registry.request("PUT", f"/v2/big/manifests/{TAG}", manifest, MANIFEST)


def push_debian(registry):
    layout = os.environ["LARDER_BENCH_DEBIAN"]
    subprocess.run([SKOPEO, "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false",
                    f"oci:{layout}:12", f"docker://{registry.host}/debian:{TAG}"], check=True)


def command(tool, registry, image, store):
    reference = f"{registry.host}/{image}:{TAG}"
    if tool == "larder":
        platform = ["--platform", "all"] if image == "debian" else []
        return [str(BIN / "larder"), "--quiet", "--store", f"file://{store}", "pull", *platform, reference]
    if tool == "crane":
        return ["crane", "pull", "--insecure", "--format=oci", reference, str(store)]
    if tool == "skopeo":
        return [SKOPEO, "copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false",
                f"docker://{reference}", f"oci:{store}:{TAG}"]
    if tool == "floor":
        return [str(BIN / "examples" / "floor"), registry.host, image, TAG, str(store)]
    sys.exit(f"no such tool: {tool}")


def cold_and_warm(tool, registry, image, directory):
    """Pulls into a fresh store and then again."""
    store = directory / "store"
    home = directory / "home"
    home.mkdir()
    os.sync()
    arguments = command(tool, registry, image, store)
    cold = measure(arguments, home, registry)
    warm = statistics.median(measure(arguments, home, registry)["wall"] for _ in range(WARM_RUNS))
    shutil.rmtree(store)
    shutil.rmtree(home)
    return {**cold, "warm": 1000 * warm}


def main():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="larder-bench-", dir=MEMORY))
    registry = None
    try:
        registry = Registry(directory)
        say_versions(TOOLS)
        for image in IMAGES:
            {"big": push_big, "debian": push_debian}[image](registry)
        for image in IMAGES:
            results = compare(image, TOOLS, lambda tool: cold_and_warm(tool, registry, image, directory))
            report(image, results, ["wall", "cpu", "rss", "origin", "warm"])
    finally:
        if registry:
            registry.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
