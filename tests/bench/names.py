"""Fills the stores of tests/bench/names.sh and prints what their names cost."""

import io
import json
import os
import pathlib
import shutil
import tarfile
import tempfile

from contest import BIN, MEMORY, ROUNDS, compare, measure, median, say_disturbed
from images import MANIFEST, Layout, named

COUNTS = [int(count) for count in os.environ.get("LARDER_BENCH_COUNTS", "100 10000 100000").split()]
IMAGES_MAX = 1000

OPERATIONS = ["find", "write", "presence"]
ROWS = [
    ("adopt", "adoption of index.json, ms", ""),
    ("ls", "larder ls, ms", "150 of 100,000"),
    ("find p50", "find_descriptor, median, ms", ""),
    ("find p99", "find_descriptor, p99, ms", "1"),
    ("write p50", "descriptor_write, median, ms", "as of the fewest"),
    ("write p99", "descriptor_write, p99, ms", "as of the fewest"),
    ("presence p50", "images_in_cache, median, ms", "50 of 1,000"),
    ("presence p99", "images_in_cache, p99, ms", ""),
    ("adopt rss", "peak RSS, MiB: adoption", ""),
    ("ls rss", "    ls", "64"),
    ("find rss", "    find", "64"),
    ("write rss", "    write", "64"),
    ("presence rss", "    presence", "64"),
]


def layer(number):
    """Returns a tar of one small file."""
    body = f"{number}\n".encode()
    member = tarfile.TarInfo("number")
    member.size = len(body)
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w") as archive:
        archive.addfile(member, io.BytesIO(body))
    return text.getvalue()


def fill(store, count):
    """Makes a layout of `count` names as another tool would leave it, for IMAGES_MAX different images."""
    layout = Layout(store)
    images = [layout.add([layer(number)]) for number in range(min(count, IMAGES_MAX))]
    layout.list([named(f"bench.example/team/app{number:06}:1", MANIFEST, *images[number % len(images)])
                 for number in range(count)])


def once(count, directory):
    """Returns what each operation took on a fresh store of `count` names."""
    store, home = directory / "store", directory / "home"
    home.mkdir()
    fill(store, count)
    os.sync()
    ls = [str(BIN / "larder"), "--quiet", "--store", f"file://{store}", "ls"]
    runs = {"adopt": measure(ls, home), "ls": measure(ls, home)}
    result = {one: 1000 * run["wall"] for one, run in runs.items()}
    for one in OPERATIONS:
        with open(home / one, "w+b") as output:
            arguments = [str(BIN / "examples" / "names"), f"file://{store}", str(count), one]
            runs[one] = measure(arguments, home, output=output)
            output.seek(0)
            result |= {f"{one} {key}": value for key, value in json.load(output).items()}
    shutil.rmtree(store)
    shutil.rmtree(home)
    result |= {f"{one} rss": run["rss"] for one, run in runs.items()}
    wall = sum(run["wall"] for run in runs.values())
    # Taken together: of a run of a few milliseconds the kernel's clock does not say who else was busy.
    others = sum(run["others"] * run["wall"] for run in runs.values()) / wall
    return {**result, "wall": wall, "others": others}


def report(results):
    print(f"\nnames: medians of {ROUNDS} rounds\n{'':32}" + "".join(f"{count:12,}" for count in COUNTS) + "  at most")
    for key, label, aim in ROWS:
        print(f"{label:32}" + "".join(f"{median(results[count], key):12.3f}" for count in COUNTS) + f"  {aim}".rstrip())
    say_disturbed(run for runs in results.values() for run in runs)


def main():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="larder-bench-", dir=MEMORY))
    try:
        report(compare("names", COUNTS, lambda count: once(count, directory)))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
