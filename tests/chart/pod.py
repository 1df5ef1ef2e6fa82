"""A pod without a cluster: the container of a rendered StatefulSet, as a node would start it.

A mount namespace of its own holds a root that is put together from what the image brings (Python,
the package, the entry point, at the paths of the Dockerfile) and from the pod's volumes. Then it
becomes read-only where the StatefulSet says so, and the process gives up everything that its
security contexts take away. What an engine adds beyond that (a process and a network namespace,
seccomp, limits) is not imitated.
"""

import contextlib
import http.client
import os
import shlex
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.programs import missing, require

ROOT = Path(__file__).parents[2]
IMAGE_HOME = Path("/opt/outcome-exporter")
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/hosts", "/proc")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def require_isolation() -> None:
    """Skips the test where this machine cannot run a pod; fails it with `CI=true`."""
    if os.geteuid() != 0:
        missing("only root can make a mount namespace for a pod")
    require("setpriv")
    command = [require("unshare"), "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        missing(f"no mount namespace for a pod: {tried.stderr.strip()}")


@dataclass(frozen=True)
class Image:
    """What lies where the Dockerfile puts it."""

    venv: Path
    jit: Path
    environment: dict[str, str]
    binds: tuple[tuple[Path, Path], ...] = ()
    """More of it: where it is, where it belongs."""


@dataclass
class Pod:
    """A container that runs."""

    process: subprocess.Popen
    statefulset: dict
    lines: list[str] = field(default_factory=list)
    """What it wrote."""

    @property
    def container(self) -> dict:
        return self.statefulset["spec"]["template"]["spec"]["containers"][0]

    def port(self, name: str) -> int:
        (port,) = (p["containerPort"] for p in self.container["ports"] if p["name"] == name)
        return port

    def probe(self, kind: str) -> int:
        """Status that a probe of the StatefulSet gets; 0 where nobody answers."""
        get = self.container[kind]["httpGet"]
        try:
            return self.get(self.port(get["port"]), get["path"], tls=get["scheme"] == "HTTPS")[0]
        except OSError:
            return 0

    def get(self, port: int, path: str, *, tls: bool = False) -> tuple[int, str]:
        connection = (
            http.client.HTTPSConnection(
                "127.0.0.1", port, timeout=20, context=ssl._create_unverified_context()
            )
            if tls
            else http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        )
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def status(self, key: str) -> str:
        """A line of /proc/PID/status."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (value,) = (line.split(":", 1)[1] for line in lines if line.startswith(f"{key}:"))
        return value.strip()

    def writable(self) -> set[str]:
        """Where it sees a file system that may be written to, and that its user could."""
        mounts = Path(f"/proc/{self.process.pid}/mountinfo").read_text().splitlines()
        return {
            fields[4]
            for fields in map(str.split, mounts)
            if "rw" in fields[5].split(",") and not fields[4].startswith(("/proc", "/dev/"))
        }

    def end(self) -> int:
        """Exit code after SIGTERM, within the grace period."""
        self.process.send_signal(signal.SIGTERM)
        spec = self.statefulset["spec"]["template"]["spec"]
        return self.process.wait(spec["terminationGracePeriodSeconds"])

    def until(self, condition, seconds: float):
        """What a condition gives once it is true."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < deadline, f"not within {seconds} s: {self.lines}"
            time.sleep(0.05)
        return found


class ConfigMapVolume:
    """A folder as a kubelet keeps it: `..data` leads to the newest version, swapped at once."""

    def __init__(self, folder: Path, data: dict[str, str]) -> None:
        self.folder = folder
        self.versions = 0
        folder.mkdir()
        self.write(data)
        for name in data:
            (folder / name).symlink_to(f"..data/{name}")

    def write(self, data: dict[str, str]) -> None:
        self.versions += 1
        version = self.folder / f"..version-{self.versions}"
        version.mkdir()
        for name, text in data.items():
            (version / name).write_text(text)
        new = self.folder / "..data_tmp"
        new.symlink_to(version.name)
        new.rename(self.folder / "..data")


@contextlib.contextmanager
def running(statefulset: dict, image: Image, volumes: dict[str, Path], folder: Path):
    """The container of a StatefulSet, with its volumes by name; `tmp` is made."""
    spec = statefulset["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    script = "\n".join(_script(spec, container, image, volumes, folder))
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    pod = Pod(process, statefulset)
    reader = threading.Thread(target=lambda: pod.lines.extend(process.stdout))
    reader.start()
    try:
        yield pod
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def _script(
    spec: dict, container: dict, image: Image, volumes: dict[str, Path], folder: Path
) -> Iterator[str]:
    """Lines that build the root and become the container's process, which keeps this one's id."""
    new = folder / "root"
    new.mkdir()
    yield f"mount -t tmpfs -o mode=755 none {new}"
    for path in (*SYSTEM, *DEVICES):
        yield from _bind(new, Path(path), Path(path))
    python = Path(sys.base_prefix)
    binds = [(python, python), (image.venv, IMAGE_HOME / "venv"), (image.jit, IMAGE_HOME / "jit")]
    entrypoint = ROOT / "docker" / "entrypoint.sh", Path("/usr/local/bin/outcome-exporter")
    for source, target in binds:
        yield from _bind(new, source, target)
    # Debian's /usr is bound already, read-only: the entry point lies beside it.
    yield from _bind(new, entrypoint[0], IMAGE_HOME / "entrypoint.sh")
    read_only_root = container["securityContext"]["readOnlyRootFilesystem"]
    for mount in container["volumeMounts"]:
        target = f"{new}{mount['mountPath']}"
        yield f"mkdir -p {target}"
        if mount["name"] == "tmp":
            (volume,) = (each for each in spec["volumes"] if each["name"] == "tmp")
            size = volume["emptyDir"]["sizeLimit"].removesuffix("i").lower()
            yield f"mount -t tmpfs -o mode=1777,size={size} none {target}"
        else:
            yield f"mount --bind {volumes[mount['name']]} {target}"
            if mount.get("readOnly"):
                yield f"mount -o remount,bind,ro {target}"
    # After the volumes: the checkout may lie below /tmp, which is one of them.
    for source, target in image.binds:
        yield from _bind(new, source, target)
    if read_only_root:
        yield f"mount -o remount,bind,ro {new}"
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "OUTCOME_EXPORTER_HOME": str(IMAGE_HOME)}
    assignments = [f"{k}={shlex.quote(v)}" for k, v in (environment | image.environment).items()]
    command = [
        *("exec", "chroot", str(new)),
        *_privileges(spec["securityContext"], container["securityContext"]),
        *("env", "-i", *assignments),
        *("/bin/sh", f"{IMAGE_HOME}/entrypoint.sh", *map(shlex.quote, container["args"])),
    ]
    yield " ".join(command)


def _bind(new: Path, source: Path, target: Path) -> Iterator[str]:
    inside = f"{new}{target}"
    if source.is_symlink() and source.parent == Path("/"):
        yield f"ln -s {source.readlink()} {inside}"  # /bin leads to /usr/bin
        return
    if not source.exists():
        return
    if source.is_dir():
        yield f"mkdir -p {inside}"
    else:
        yield f"mkdir -p {Path(inside).parent} && touch {inside}"
    yield f"mount --rbind {source} {inside}"
    if not str(target).startswith(("/proc", "/dev")):
        yield f"mount -o remount,bind,ro {inside}"


def _privileges(pod: dict, container: dict) -> Iterator[str]:
    assert pod["runAsNonRoot"]
    yield "setpriv"
    yield f"--reuid={pod['runAsUser']}"
    yield f"--regid={pod['runAsGroup']}"
    yield f"--groups={pod['fsGroup']}"
    if "ALL" in container["capabilities"]["drop"]:
        yield from ("--bounding-set=-all", "--inh-caps=-all")
    if not container["allowPrivilegeEscalation"]:
        yield "--no-new-privs"
