#!/usr/bin/env python3
"""Measures how long `larder pull` takes from being started to its first connection to the registry, in an empty cache.

    tests/bench/startup.py [LARDER [ROUNDS]]

Prints minimum, median and maximum in milliseconds. Build first: cargo build --release --package larder-cli.
"""

import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

LARDER = sys.argv[1] if len(sys.argv) > 1 else "target/release/larder"
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 15


def once(listener):
    cache = tempfile.mkdtemp()
    reference = "127.0.0.1:%d/none:1" % listener.getsockname()[1]
    command = [LARDER, "--quiet", "--store", f"file://{cache}", "pull", reference]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    connection, _ = listener.accept()
    elapsed_ms = (time.perf_counter() - begun) * 1000
    process.kill()
    process.wait()
    connection.close()
    shutil.rmtree(cache)
    return elapsed_ms


def main():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        once(listener)
        times = [once(listener) for _ in range(ROUNDS)]
    print("start to first connection, ms: min %.1f, median %.1f, max %.1f"
          % (min(times), statistics.median(times), max(times)))


main()
