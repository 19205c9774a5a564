"""A registry for the benches: Debian's docker-registry, or a newer distribution."""

import http.client
import re
import sys

from server import Server, answers, free_port

BLOB_GET = re.compile(r'"GET \S*/blobs/(sha256:[0-9a-f]{64})')


class Registry(Server):
    """A registry that stores below `root`, or below `directory`; with `upstream` (HOST:PORT), a pull-through cache of it."""

    def __init__(self, directory, binary="docker-registry", root=None, upstream=None, is_logging=False):
        self.root = root or directory / "registry"
        self.host = f"127.0.0.1:{free_port()}"
        config = directory / "registry.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: {str(not is_logging).lower()}}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.root}}}, cache: {{blobdescriptor: inmemory}}}}\n"
            f"http: {{addr: '{self.host}'}}\n" + (f"proxy: {{remoteurl: 'http://{upstream}'}}\n" if upstream else ""))
        # The newer one sends traces to whoever listens here, unless told not to.
        super().__init__([binary, "serve", str(config)], directory, {"OTEL_TRACES_EXPORTER": "none"})
        self.await_ready(lambda: answers(f"http://{self.host}/v2/"))

    def request(self, method, path, body=None, kind=None):
        connection = http.client.HTTPConnection(self.host)
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

    def blob_gets(self):
        """Returns the digest of each GET of a blob so far, in order; only a registry that logs knows."""
        return BLOB_GET.findall(self.said.read_text())
