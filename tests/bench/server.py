"""Servers that the benches talk to, each a process or several below a directory of its own."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from contest import BIN, ENVIRONMENT, TICKS

READY_LIMIT_S = 60
STOP_LIMIT_S = 20


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url, expected=200, method="GET"):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
            return answer.status == expected
    except urllib.error.HTTPError as error:
        return error.code == expected
    except OSError:
        return False


class Server:
    """A process with what it started; what it says is in the files `said` and `complaints` below `directory`."""

    def __init__(self, arguments, directory, environment=None):
        self.directory = directory
        self.name = pathlib.Path(arguments[0]).name
        self.said, self.complaints = directory / "server.stdout", directory / "server.stderr"
        with open(self.said, "wb") as out, open(self.complaints, "wb") as errors:
            own = {"HOME": str(directory), "TMPDIR": str(directory), **(environment or {})}
            self.process = subprocess.Popen(arguments, stdout=out, stderr=errors, cwd=directory, env={**ENVIRONMENT, **own})

    def await_ready(self, is_ready):
        deadline = time.monotonic() + READY_LIMIT_S
        while not is_ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.stop()
                sys.exit(f"{self.name} does not start\n{self.complaints.read_text()[-4000:]}")
            time.sleep(0.02)

    def pids(self):
        found = [self.process.pid]
        for pid in found:
            found += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def cpu_s(self):
        def of(pid):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / TICKS

        return sum(map(of, self.pids()))

    def peak_mib(self):
        """Returns the most memory that was resident since the last `forget_peak`, over all processes."""
        def of(pid):
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))

        return sum(map(of, self.pids()))

    def forget_peak(self):
        for pid in self.pids():
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Larder(Server):
    """A `larder serve` of the given roles, or of all; asks `upstream` (HOST:PORT) where a request names no registry."""

    def __init__(self, directory, upstream, roles=(), environment=None):
        settings = {"LARDER_STORE": f"file://{directory}/store", "LARDER_FACADE__DEFAULT_UPSTREAM": upstream,
                    "LARDER_FACADE__UPSTREAMS": json.dumps([upstream]), **(environment or {})}
        listen = [f"--{door}listen=127.0.0.1:0" for door in ("", "content-", "admin-")]
        super().__init__([str(BIN / "larder"), "serve", *roles, *listen], directory, settings)
        self.await_ready(lambda: "\n" in self.said.read_text())
        ready = json.loads(self.said.read_text().split("\n")[0])
        self.host = ready.get("listen", "").removeprefix("http://").strip("/")


class Nginx(Server):
    """An nginx that serves the files below `root`."""

    def __init__(self, directory, root):
        self.host = f"127.0.0.1:{free_port()}"
        (directory / "logs").mkdir()
        temporary = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in
                            ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (directory / "nginx.conf").write_text(
            f"daemon off; pid {directory}/pid; error_log stderr; worker_processes {os.cpu_count()};"
            + ("user root;" if os.geteuid() == 0 else "") + "events { worker_connections 1024; }"
            f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; {temporary}"
            f"server {{ listen {self.host} backlog=1024; root {root};"
            "location ~ /manifests/ { default_type application/vnd.oci.image.manifest.v1+json; }"
            "location / { default_type application/octet-stream; } } }")
        super().__init__(["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")], directory)
        self.await_ready(lambda: answers(f"http://{self.host}/v2/", 403))


class Nats(Server):
    """A nats-server with JetStream that syncs what it acknowledges."""

    def __init__(self, directory):
        port, monitor = free_port(), free_port()
        self.url = f"nats://127.0.0.1:{port}"
        self.monitor_url = f"http://127.0.0.1:{monitor}"
        (directory / "nats.conf").write_text(
            f"host: 127.0.0.1\nport: {port}\nhttp: \"127.0.0.1:{monitor}\"\n"
            f"jetstream {{\n store_dir: \"{directory}/jetstream\"\n sync_interval: always\n}}\n")
        super().__init__(["nats-server", "-c", str(directory / "nats.conf")], directory)
        self.await_ready(lambda: answers(f"{self.monitor_url}/healthz"))

    def environment(self):
        return {"LARDER_BUS": self.url, "LARDER_NATS__MONITOR_URL": self.monitor_url}


class Seaweed(Server):
    """A SeaweedFS that speaks S3, with one bucket."""

    BUCKET = KEY = "larder"
    SECRET = "larder-secret"

    def __init__(self, directory):
        ports = {part: (free_port(), free_port()) for part in ("master", "volume", "filer", "s3")}
        (directory / "data").mkdir()
        user = {"name": self.KEY, "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                "credentials": [{"accessKey": self.KEY, "secretKey": self.SECRET}]}
        (directory / "s3.json").write_text(json.dumps({"identities": [user]}))
        arguments = ["weed", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.volumeSizeLimitMB=256",
                     "-volume.max=64", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
                     "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms", f"-dir={directory}/data",
                     f"-s3.config={directory}/s3.json", f"-filer.localSocket={directory}/filer.sock",
                     f"-s3.localSocket={directory}/s3.sock"]
        for part, (port, grpc) in ports.items():
            arguments += [f"-{part}.port={port}", f"-{part}.port.grpc={grpc}"]
        super().__init__(arguments, directory)
        self.sockets = [pathlib.Path(f"/tmp/seaweedfs-{part}-grpc-{grpc}.sock") for part, (_, grpc) in ports.items()]
        self.endpoint = f"http://127.0.0.1:{ports['s3'][0]}"
        self.await_ready(lambda: answers(self.endpoint, 403)
                         and answers(f"http://127.0.0.1:{ports['master'][0]}/dir/assign"))
        if not answers(f"http://127.0.0.1:{ports['filer'][0]}/buckets/{self.BUCKET}/", 201, "POST"):
            self.stop()
            sys.exit("SeaweedFS makes no bucket")

    def environment(self):
        return {"LARDER_STORE": f"s3://{self.BUCKET}", "AWS_ENDPOINT": self.endpoint, "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": self.KEY, "AWS_SECRET_ACCESS_KEY": self.SECRET}

    def stop(self):
        super().stop()
        # SeaweedFS leaves these where it likes, whatever its directory.
        for path in self.sockets:
            path.unlink(missing_ok=True)
