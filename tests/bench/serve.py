"""Runs the contests of tests/bench/serve.sh and prints what servers and clients took."""

import collections
import json
import os
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import urllib.request

from contest import BIN, MEMORY, ROUNDS, compare, measure, median, say_disturbed, say_versions
from images import MANIFEST, sha256
from pull import TAG, push_big, push_debian
from registry import Registry
from server import Larder, Nats, Nginx, Seaweed

CONTESTS = os.environ.get("LARDER_BENCH_CONTESTS", "manifests blobs pull first herd").split()
TOOLS = os.environ.get("LARDER_BENCH_TOOLS", "larder nginx v3 2.8.2 v3-proxy 2.8.2-proxy embedded straight").split()
IMAGES = os.environ.get("LARDER_BENCH_IMAGES", "big debian").split()
SECONDS = float(os.environ.get("LARDER_BENCH_SECONDS", "5"))
CLIENTS = int(os.environ.get("LARDER_BENCH_CLIENTS", "200"))

SERVING = ["larder", "nginx", "v3", "2.8.2", "v3-proxy", "2.8.2-proxy"]
PULLING_THROUGH = ["straight", "larder", "v3-proxy", "2.8.2-proxy"]
HERDED = ["larder", "embedded", "v3-proxy", "2.8.2-proxy"]
BINARIES = {"v3": "distribution", "2.8.2": "docker-registry"}
FARM = ["facade", "facade", "fetcher", "fetcher", "verifier", "indexer"]

CONNECTIONS = 32
STREAMS = [1, 8, 32]
BIG = f"big:{TAG}"


class Group:
    """Several servers as one, for what they take together."""

    def __init__(self, servers):
        self.servers = servers

    def cpu_s(self):
        return sum(server.cpu_s() for server in self.servers)


class Place:
    """A directory in memory with an origin that has the images, and whatever else is started below it."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="larder-bench-", dir=MEMORY))
        self.home = self.below("home")
        self.started = []
        self.origin = self.start(Registry)

    def below(self, name="server"):
        return pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))

    def start(self, kind, *arguments, **options):
        server = kind(self.below(), *arguments, **options)
        self.started.append(server)
        return server

    def start_named(self, name):
        """Starts a contestant before the origin; "straight" is the origin itself, which stays."""
        return self.origin if name == "straight" else self.start_before(self.origin, name)

    def start_before(self, origin, name):
        if name in ("larder", "embedded"):
            return self.start(Larder, origin.host)
        if name == "nginx":
            return self.start(Nginx, self.file_tree())
        kind, _, is_proxy = name.partition("-")
        if kind not in BINARIES:
            sys.exit(f"no such tool: {name}")
        if is_proxy:
            return self.start(Registry, BINARIES[kind], upstream=origin.host)
        return self.start(Registry, BINARIES[kind], root=origin.root)

    def stop(self, servers):
        for server in reversed(servers):
            if server is not self.origin:
                server.stop()
                self.started.remove(server)
                shutil.rmtree(server.directory)

    def file_tree(self):
        """Returns a directory of files at the paths of the protocol that has the image "big"."""
        root = self.below("tree")
        for part in ("manifests", "blobs"):
            (root / "v2/big" / part).mkdir(parents=True)
        manifest = self.manifest()
        for name in (TAG, sha256(manifest)):
            (root / "v2/big/manifests" / name).write_bytes(manifest)
        for blob in [json.loads(manifest)["config"], *json.loads(manifest)["layers"]]:
            digits = blob["digest"].removeprefix("sha256:")
            data = self.origin.root / "docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"
            os.link(data, root / "v2/big/blobs" / blob["digest"])
        return root

    def manifest(self):
        """Returns the manifest of the image "big"."""
        request = urllib.request.Request(f"http://{self.origin.host}/v2/big/manifests/{TAG}", headers={"Accept": MANIFEST})
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def load(self, *arguments):
        """Runs the load generator; returns what it took and what it saw."""
        seen = self.home / "seen.json"
        with open(seen, "wb") as output:
            run = self.measure([str(BIN / "load"), *map(str, arguments)], output=output)
        return {**run, **json.loads(seen.read_text())}

    def measure(self, arguments, **options):
        return measure(arguments, self.home, Group(self.started), **options)

    def close(self):
        for server in reversed(self.started):
            server.stop()
        shutil.rmtree(self.directory)


def chosen(names):
    return [name for name in names if name in TOOLS]


def serving(place):
    """Starts all who serve, each with the image "big" in its store."""
    servers = {name: place.start_named(name) for name in chosen(SERVING)}
    for server in servers.values():
        whole(place.load("herd", 1, BIG, server.host), 1)
    return servers


def whole(run, clients):
    if run["complete"] != clients:
        print(f"{clients - run['complete']} of {clients} clients failed: {run['failures']}", file=sys.stderr)
    return run


def looped(place, server, connections, paths):
    server.forget_peak()
    before = server.cpu_s()
    run = place.load("loop", SECONDS, connections, server.host, *paths)
    cpu = server.cpu_s() - before
    return {**run, "rate": run["requests"] / SECONDS, "request_us": 1e6 * cpu / max(run["requests"], 1),
            "p99": (run["p99_us"] or 0) / 1000, "mb_s": run["bytes"] / SECONDS / 1e6, "cpu_gb": 1e9 * cpu / run["bytes"],
            "peak": server.peak_mib()}


def manifests(place):
    servers = serving(place)
    columns = {"rate": "per s", "request_us": "server us", "p99": "p99 ms"}
    for kind, name in (("tag", TAG), ("digest", sha256(place.manifest()))):
        title = f"manifests by {kind}, {CONNECTIONS} connections"
        paths = [f"/v2/big/manifests/{name}"]
        results = compare(title, list(servers), lambda one: looped(place, servers[one], CONNECTIONS, paths))
        report(title, results, columns, {"rate": (">=", 25000), "request_us": ("<=", 40)})
    place.stop(servers.values())


def blobs(place):
    servers = serving(place)
    paths = [f"/v2/big/blobs/{layer['digest']}" for layer in json.loads(place.manifest())["layers"]]
    columns = {"mb_s": "MB/s", "cpu_gb": "CPU s/GB", "peak": "RSS MiB"}
    for streams in STREAMS:
        title = f"blobs, {streams} streams"
        results = compare(title, list(servers), lambda one: looped(place, servers[one], streams, paths))
        report(title, results, columns, {"cpu_gb": ("<=", 0.45), "peak": ("<=", 64)})
    place.stop(servers.values())


def pull(place):
    columns = {"wall": "cold s", "warm": "warm s", "cpu": "crane CPU", "origin": "servers CPU", "peak": "RSS MiB",
               "over": "x straight"}
    for image in IMAGES:
        title = f"pull {image} by crane"
        results = compare(title, chosen(PULLING_THROUGH), lambda one: cold_and_warm(place, one, image))
        beside_straight(results, "over", lambda run, straight: run["wall"] / straight["wall"])
        report(title, results, columns, {"over": ("<=", 1.25)})


def cold_and_warm(place, one, image):
    """Has crane pull through a fresh server, and again into another directory."""
    server = place.start_named(one)
    server.forget_peak()
    runs = []
    for _ in range(2):
        store = place.below("crane")
        os.sync()
        runs.append(place.measure(["crane", "pull", "--insecure", "--format=oci", f"{server.host}/{image}:{TAG}", str(store)]))
        shutil.rmtree(store)
    cold, warm = runs
    result = {**cold, "warm": warm["wall"], "peak": server.peak_mib(), "others": max(run["others"] for run in runs)}
    place.stop([server])
    return result


def first(place):
    def run(one):
        server = place.start_named(one)
        result = place.load("first", BIG, server.host)
        place.stop([server])
        return {**result, "first": statistics.median(result["first_ms"])}

    title = "first byte of a cold layer"
    results = compare(title, chosen(PULLING_THROUGH), run)
    beside_straight(results, "over", lambda run, straight: run["first"] - straight["first"])
    report(title, results, {"first": "ms", "wall": "all of it s", "over": "more ms"}, {"over": ("<=", 10)})


def beside_straight(results, key, difference):
    """Sets `key` of each run to what it is beside the same round's pull straight from the origin."""
    for runs in results.values():
        for run, straight in zip(runs, results.get("straight", [])):
            run[key] = difference(run, straight)


def herd(place):
    columns = {"complete": "complete", "most": "GETs/blob max", "mean": "GETs/blob", "wall": "wall s", "origin": "servers CPU",
               "facade": "facade MiB", "fetcher": "fetcher MiB"}
    targets = {"complete": (">=", CLIENTS), "most": ("<=", 1), "facade": ("<=", 128), "fetcher": ("<=", 128)}
    title = f"{CLIENTS} clients, one cold image"
    report(title, compare(title, chosen(HERDED), lambda one: stampede(place, one)), columns, targets)


def stampede(place, one):
    """Has all clients pull at once through fresh servers; counts what the origin was asked for."""
    origin = place.start(Registry, root=place.origin.root, is_logging=True)
    others = [origin]
    if one == "larder":
        nats, seaweed = place.start(Nats), place.start(Seaweed)
        environment = {**nats.environment(), **seaweed.environment()}
        servers = [place.start(Larder, origin.host, [role], environment) for role in FARM]
        facades, fetchers = servers[:2], servers[2:4]
        others += [nats, seaweed]
    else:
        facades = fetchers = servers = [place.start_before(origin, one)]
    hosts = [facade.host for facade in facades]
    run = whole(place.load("herd", CLIENTS, f"debian:{TAG}", *hosts), CLIENTS)
    gets = collections.Counter(origin.blob_gets())
    result = {**run, "most": max(gets.values(), default=0), "mean": gets.total() / max(len(gets), 1),
              "facade": max(server.peak_mib() for server in facades),
              "fetcher": max(server.peak_mib() for server in fetchers)}
    place.stop([*others, *servers])
    return result


def report(title, results, columns, targets):
    """Prints medians, larder's ratios to each peer, and how larder stands to its targets."""
    def shown(value):
        if value is None:
            return "-"
        return f"{value:,.{0 if value >= 1000 or value == int(value) else 1 if value >= 10 else 3}f}"

    def middle(runs, key):
        return median(runs, key) if all(key in run for run in runs) else None

    print(f"\n{title}: medians of {ROUNDS} rounds")
    print(f"{'':12}" + "".join(f"{heading:>14}" for heading in columns.values()))
    for one, runs in results.items():
        print(f"{one:12}" + "".join(f"{shown(middle(runs, key)):>14}" for key in columns))
    print(f"{'target':12}" + "".join(f"{' '.join(map(str, targets.get(key, ()))):>14}" for key in columns))
    ours = results.get("larder", [])
    for peer, runs in results.items():
        if ours and peer != "larder":
            ratios = {key: [our[key] / run[key] for our, run in zip(ours, runs) if key in run and run[key]] for key in columns}
            print(f"larder / {peer}, pair by pair: "
                  + ", ".join(f"{columns[key]} {statistics.median(found):.2f}" for key, found in ratios.items() if found))
    for key, (relation, limit) in targets.items() if ours else ():
        value = middle(ours, key)
        if value is not None:
            holds = value >= limit if relation == ">=" else value <= limit
            print(f"{columns[key]} {shown(value)}: {'meets' if holds else 'misses'} the target of {relation} {limit:,}")
    say_disturbed(run for runs in results.values() for run in runs)


def main():
    # Whoever is told to end stops its servers first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    place = Place()
    try:
        say_versions(["crane"])
        push_big(place.origin)
        if "herd" in CONTESTS or "pull" in CONTESTS and "debian" in IMAGES:
            push_debian(place.origin)
        for contest in CONTESTS:
            {"manifests": manifests, "blobs": blobs, "pull": pull, "first": first, "herd": herd}[contest](place)
    finally:
        place.close()


if __name__ == "__main__":
    main()
