"""Runs the contestants of tests/bench/pull.sh in turn and prints what they took."""

import hashlib
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

ROUNDS = int(os.environ.get("LARDER_BENCH_ROUNDS", "5"))
LAYERS = int(os.environ.get("LARDER_BENCH_LAYERS", "8"))
LAYER_MIB = int(os.environ.get("LARDER_BENCH_LAYER_MIB", "256"))
IMAGES = os.environ.get("LARDER_BENCH_IMAGES", "big debian").split()
TOOLS = os.environ.get("LARDER_BENCH_TOOLS", "larder crane skopeo floor").split()
MEMORY = os.environ.get("LARDER_BENCH_MEMORY", "/dev/shm")
SKOPEO = os.environ.get("LARDER_BENCH_SKOPEO", "skopeo")
BIN = pathlib.Path(os.environ["LARDER_BENCH_BIN"])

WARM_RUNS = 3
RERUNS_MAX = 4
OTHERS_MAX = 0.15  # of a core, by processes that do not belong to the run
GATED_FROM_S = 0.25  # the kernel counts in hundredths of a second
READY_LIMIT_S = 20
TICKS = os.sysconf("SC_CLK_TCK")
TAG = "bench"
MIB = 1 << 20

OCI = "application/vnd.oci.image."
ENVIRONMENT = {key: os.environ[key] for key in ("PATH",) if key in os.environ}


class Registry:
    """A docker-registry that stores below `directory`."""

    def __init__(self, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        config = directory / "registry.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {directory / 'registry'}}}}}\n"
            f"http: {{addr: '{self.host}'}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", str(config)], stderr=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        deadline = time.monotonic() + READY_LIMIT_S
        while True:
            try:
                self.request("GET", "/v2/")
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    sys.exit("docker-registry does not start")
                time.sleep(0.05)

    def request(self, method, path, body=None, kind=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return answer

    def push_blob(self, name, digest, body):
        location = self.request("POST", f"/v2/{name}/blobs/uploads/").getheader("Location")
        path = "/" + location.split("/", 3)[3] if "://" in location else location
        joint = "&" if "?" in path else "?"
        self.request("PUT", f"{path}{joint}digest={digest}", body, "application/octet-stream")

    def cpu_s(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def noise_layer(seed):
    """Returns a tar of one file that does not compress."""
    member = tarfile.TarInfo(f"noise-{seed}")
    member.size = LAYER_MIB * MIB
    noise, step = random.Random(seed), 1 << 20
    body = b"".join(noise.randbytes(min(step, member.size - at)) for at in range(0, member.size, step))
    return member.tobuf() + body + bytes(2 * tarfile.BLOCKSIZE)


def push_big(registry):
    layers = []
    for seed in range(LAYERS):
        layer = noise_layer(seed)
        digest = sha256(layer)
        registry.push_blob("big", digest, layer)
        layers.append({"mediaType": OCI + "layer.v1.tar", "digest": digest, "size": len(layer)})
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = json.dumps({"architecture": machine, "os": "linux", "config": {},
                         "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}}).encode()
    registry.push_blob("big", sha256(config), config)
    kind = OCI + "manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "layers": layers,
                "config": {"mediaType": OCI + "config.v1+json", "digest": sha256(config), "size": len(config)}}
    registry.request("PUT", f"/v2/big/manifests/{TAG}", json.dumps(manifest).encode(), kind)


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


def watch_rss(pid, peak):
    """Keeps the process's high-water mark; the one in rusage would count this interpreter's pages too."""
    while True:
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
        if line is None:
            return
        peak[0] = max(peak[0], int(line.split()[1]) / 1024)
        time.sleep(0.005)


def busy_s():
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(field) for field in fields[1:4]) / TICKS


def measure(arguments, registry, home):
    """Runs once; returns wall, CPU and registry CPU seconds, MiB, and the cores that others took meanwhile."""
    before, origin, own = busy_s(), registry.cpu_s(), sum(os.times()[:2])
    errors = home / "stderr"
    peak = [0.0]
    with open(errors, "wb") as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=stderr, cwd=home,
                                   env={**ENVIRONMENT, "HOME": str(home)})
        watcher = threading.Thread(target=watch_rss, args=(process.pid, peak))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    if process.returncode != 0:
        sys.exit(f"{' '.join(arguments)}: exit code {process.returncode}\n{errors.read_text()}")
    cpu = usage.ru_utime + usage.ru_stime
    origin = registry.cpu_s() - origin
    others = busy_s() - before - cpu - origin - (sum(os.times()[:2]) - own)
    return {"wall": wall, "cpu": cpu, "origin": origin, "rss": peak[0], "others": others / wall}


def cold_and_warm(tool, registry, image, directory):
    """Pulls into a fresh store and then again; runs anew when others kept the machine busy."""
    for _ in range(RERUNS_MAX):
        store = directory / "store"
        home = directory / "home"
        home.mkdir()
        os.sync()
        arguments = command(tool, registry, image, store)
        cold = measure(arguments, registry, home)
        warm = statistics.median(measure(arguments, registry, home)["wall"] for _ in range(WARM_RUNS))
        shutil.rmtree(store)
        shutil.rmtree(home)
        cold["warm"] = warm
        if cold["wall"] < GATED_FROM_S or cold["others"] <= OTHERS_MAX:
            break
    else:
        cold["disturbed"] = True
    return cold


def compare(registry, image, directory):
    results = {tool: [] for tool in TOOLS}
    for number in range(ROUNDS + 1):
        # Each round begins with another one: whoever comes after a heavy one has no standing disadvantage.
        turn = number % len(TOOLS)
        for tool in TOOLS[turn:] + TOOLS[:turn]:
            result = cold_and_warm(tool, registry, image, directory)
            if number:
                results[tool].append(result)
        print(f"{image}: round {number} of {ROUNDS}", file=sys.stderr)
    return results


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def report(image, results):
    print(f"\n{image}: medians of {ROUNDS} rounds")
    print(f"{'':8} {'cold s':>8} {'CPU s':>8} {'RSS MiB':>8} {'registry CPU s':>15} {'warm ms':>8}")
    for tool, runs in results.items():
        print(f"{tool:8} {median(runs, 'wall'):8.3f} {median(runs, 'cpu'):8.3f} {median(runs, 'rss'):8.1f} "
              f"{median(runs, 'origin'):15.3f} {1000 * median(runs, 'warm'):8.1f}")
    if "larder" in results:
        for tool in results:
            if tool != "larder":
                ratio = {key: statistics.median(ours[key] / theirs[key] for ours, theirs
                                                in zip(results["larder"], results[tool]) if theirs[key])
                         for key in ("wall", "cpu", "warm")}
                print(f"larder / {tool}, pair by pair: wall {ratio['wall']:.2f}, CPU {ratio['cpu']:.2f}, "
                      f"warm {ratio['warm']:.2f}")
    disturbed = sum(run.get("disturbed", False) for runs in results.values() for run in runs)
    if disturbed:
        print(f"{disturbed} runs were disturbed by other processes {RERUNS_MAX} times over and stand all the same")


def say_versions():
    def first_line(*arguments):
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip().split("\n")[0]

    if "crane" in TOOLS:
        print("crane", first_line("crane", "version"))
    if "skopeo" in TOOLS:
        version = first_line(SKOPEO, "--version").removeprefix("skopeo version ")
        old = tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < (1, 15)
        print("skopeo", version, "(built by a Go without SHA-NI: no fair peer in bulk)" if old else "")
    print(f"{os.cpu_count()} cores, shared with the registry; differences under 10 % are none")


def main():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="larder-bench-", dir=MEMORY))
    registry = None
    try:
        registry = Registry(directory)
        say_versions()
        for image in IMAGES:
            {"big": push_big, "debian": push_debian}[image](registry)
        for image in IMAGES:
            report(image, compare(registry, image, directory))
    finally:
        if registry:
            registry.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
