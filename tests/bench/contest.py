"""Runs contestants in turn, reads what each run took, and prints medians and ratios."""

import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

ROUNDS = int(os.environ.get("LARDER_BENCH_ROUNDS", "5"))
MEMORY = os.environ.get("LARDER_BENCH_MEMORY", "/dev/shm")
SKOPEO = os.environ.get("LARDER_BENCH_SKOPEO", "skopeo")
LINUXKIT = os.environ.get("LINUXKIT")
BIN = pathlib.Path(os.environ["LARDER_BENCH_BIN"])

RERUNS_MAX = 4
OTHERS_MAX = 0.15  # of a core, by processes that do not belong to the run
GATED_FROM_S = 0.25  # the kernel counts in hundredths of a second
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20

ENVIRONMENT = {key: os.environ[key] for key in ("PATH",) if key in os.environ}
HEADINGS = {"wall": "wall s", "cpu": "CPU s", "rss": "RSS MiB", "origin": "registry CPU s", "warm": "warm ms"}


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


def measure(arguments, home, registry=None, output=subprocess.DEVNULL):
    """Runs once; returns wall, CPU and registry CPU seconds, MiB, and the cores that others took meanwhile."""
    origin_s = registry.cpu_s if registry else lambda: 0.0
    before, origin, own = busy_s(), origin_s(), sum(os.times()[:2])
    errors = home / "stderr"
    peak = [0.0]
    with open(errors, "wb") as stderr:
        start = time.perf_counter()
        # What a tool puts aside lies where its store lies, too.
        process = subprocess.Popen(arguments, stdout=output, stderr=stderr, cwd=home,
                                   env={**ENVIRONMENT, "HOME": str(home), "TMPDIR": str(home)})
        watcher = threading.Thread(target=watch_rss, args=(process.pid, peak))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    if process.returncode != 0:
        sys.exit(f"{' '.join(arguments)}: exit code {process.returncode}\n{errors.read_text()}")
    cpu = usage.ru_utime + usage.ru_stime
    origin = origin_s() - origin
    others = busy_s() - before - cpu - origin - (sum(os.times()[:2]) - own)
    return {"wall": wall, "cpu": cpu, "origin": origin, "rss": peak[0], "others": others / wall}


def undisturbed(run):
    """Has `run` measure anew while others keep the machine busy."""
    for _ in range(RERUNS_MAX):
        result = run()
        if result["wall"] < GATED_FROM_S or result["others"] <= OTHERS_MAX:
            return result
    return {**result, "disturbed": True}


def compare(title, contestants, run):
    """Returns what `run` gives for each contestant, round by round; the first round only warms up."""
    results = {one: [] for one in contestants}
    for number in range(ROUNDS + 1):
        # Each round begins with another one: whoever comes after a heavy one has no standing disadvantage.
        turn = number % len(contestants)
        for one in contestants[turn:] + contestants[:turn]:
            result = undisturbed(lambda: run(one))
            if number:
                results[one].append(result)
        print(f"{title}: round {number} of {ROUNDS}", file=sys.stderr)
    return results


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def report(title, results, keys):
    print(f"\n{title}: medians of {ROUNDS} rounds")
    print(f"{'':8} " + " ".join(f"{HEADINGS[key]:>8}" for key in keys))
    for tool, runs in results.items():
        print(f"{tool:8} " + " ".join(shown(median(runs, key), len(HEADINGS[key])) for key in keys))
    for tool in results:
        if "larder" in results and tool != "larder":
            print(f"larder / {tool}, pair by pair: " + ratios(results["larder"], results[tool], keys))
    say_disturbed(run for runs in results.values() for run in runs)


def ratios(ours, theirs, keys):
    def ratio(key):
        return statistics.median(one[key] / other[key] for one, other in zip(ours, theirs))

    return ", ".join(f"{HEADINGS[key].rsplit(' ', 1)[0]} {ratio(key):.2f}" for key in ("wall", "cpu", "warm", "rss")
                     if key in keys and all(run[key] for run in theirs))


def shown(value, width):
    return f"{value:{max(width, 8)}.{3 if value < 10 else 1}f}"


def say_disturbed(runs):
    disturbed = sum(run.get("disturbed", False) for run in runs)
    if disturbed:
        print(f"{disturbed} runs were disturbed by other processes {RERUNS_MAX} times over and stand all the same")


def say_versions(tools):
    def first_line(*arguments):
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip().split("\n")[0]

    if "crane" in tools:
        print("crane", first_line("crane", "version"))
    if "skopeo" in tools:
        version = first_line(SKOPEO, "--version").removeprefix("skopeo version ")
        old = tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < (1, 15)
        print("skopeo", version, "(built by a Go without SHA-NI: no fair peer in bulk)" if old else "")
    if "linuxkit" in tools:
        print(first_line(LINUXKIT, "version"))
    print(f"{os.cpu_count()} cores, shared with the registry; differences under 10 % are none")
