"""Makes the images that the benches move."""

import hashlib
import json
import os
import random
import tarfile

OCI = "application/vnd.oci.image."
MANIFEST = OCI + "manifest.v1+json"
NAME = "org.opencontainers.image.ref.name"
STEP = 1 << 20
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def noise_layer(seed, size):
    """Returns a tar of one file that does not compress, of `size` bytes."""
    member = tarfile.TarInfo(f"noise-{seed}")
    member.size = size
    noise = random.Random(seed)
    body = b"".join(noise.randbytes(min(STEP, size - at)) for at in range(0, size, STEP))
    padding = bytes(-size % tarfile.BLOCKSIZE)
    return member.tobuf() + body + padding + bytes(2 * tarfile.BLOCKSIZE)


def image(layers, keep):
    """Gives every blob of an image for this machine to `keep`, with its digest; returns the manifest."""
    described = []
    for layer in layers:
        digest = sha256(layer)
        keep(digest, layer)
        described.append({"mediaType": OCI + "layer.v1.tar", "digest": digest, "size": len(layer)})
    config = json.dumps({"architecture": ARCHITECTURE, "os": "linux", "config": {},
                         "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in described]}}).encode()
    keep(sha256(config), config)
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": described,
                       "config": {"mediaType": OCI + "config.v1+json", "digest": sha256(config),
                                  "size": len(config)}}).encode()


def named(name, kind, digest, size):
    """Returns what a layout lists for a name."""
    return {"mediaType": kind, "digest": digest, "size": size, "annotations": {NAME: name}}


class Layout:
    """An OCI image layout in the making at `path`."""

    def __init__(self, path):
        self.path = path
        self.blobs = path / "blobs/sha256"
        self.blobs.mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def keep(self, digest, body):
        (self.blobs / digest.removeprefix("sha256:")).write_bytes(body)

    def add(self, layers):
        """Adds an image; returns its digest and size."""
        manifest = image(layers, self.keep)
        self.keep(sha256(manifest), manifest)
        return sha256(manifest), len(manifest)

    def list(self, entries):
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
