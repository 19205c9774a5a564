"""A docker-registry for the benches."""

import http.client
import pathlib
import signal
import socket
import subprocess
import sys
import time

from contest import ENVIRONMENT, TICKS

READY_LIMIT_S = 20


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
