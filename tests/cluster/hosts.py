"""Hosts on one machine: namespaces with an address, a home, a /tmp, a /dev/shm and an SSH server of their own.

A laptop (in whose network the bridge is, so that this machine's own network stays as it is) and hosts ``n1``, ``n2``, ...
at 10.77.0.11, .12, ... All of it lives in namespaces that go with their processes, and the processes go with the one that
started them: nothing is left behind, however that one ends.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = Path(__file__).parent / "packages"  # a method for these tests, by entry point
_HIDDEN = (Path("/root"), Path("/tmp"))  # each host has its own
_LIBC = ctypes.CDLL(None)


def why_not() -> str | None:
    """Why hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    tools = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "unshare": "util-linux"}
    missing = sorted({package for tool, package in tools.items() if _which(tool) is None})
    if missing:
        return f"needs the packages {', '.join(missing)}"
    tried = subprocess.run(["unshare", "-n", "-m", "-u", "-p", "-f", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.strip()}"


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _die_with_parent() -> None:
    os.setsid()
    _LIBC.prctl(1, signal.SIGKILL)


class Hosts:
    """A laptop and ``count`` hosts; a context manager.

    Attributes:
        folder: scratch, the same for all of them.
        pids: process 1 of each host (0: the laptop), by this machine's numbers.
        shared: what stands in for shared storage: a folder that all see at the same path.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        for old in Path("/var/tmp").glob("frontier-hosts-*"):  # of one that was killed
            if not Path(f"/proc/{old.name.split('-')[2]}").exists():
                shutil.rmtree(old, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"frontier-hosts-{os.getpid()}-", dir="/var/tmp"))
        self.shared = self.folder / "shared"
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # 0: the laptop
        self.pids: dict[int, int] = {}

    @staticmethod
    def address(number: int) -> str:
        """Address of host ``number``, or of the laptop (0)."""
        return f"10.77.0.{10 + number}" if number else "10.77.0.1"

    def __enter__(self) -> Hosts:
        try:
            self.shared.mkdir()
            for key in ("hostkey", "key"):
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key], check=True)
            bridge = f"ip link add bridge type bridge; ip addr add {self.address(0)}/24 dev bridge; ip link set bridge up"
            self._begin(0, f"hostname laptop; ip link set lo up; {bridge}; while :; do sleep 1000; done")
            _wait_for(lambda: self.on(0, "ip addr show bridge 2>/dev/null | grep -q 10.77", check=False).returncode == 0)
            for number in range(1, self.count + 1):
                self.start(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._processes):
            self.kill(number)
        if str(self.folder) not in Path("/proc/mounts").read_text():  # what hosts mount, they alone see
            shutil.rmtree(self.folder, ignore_errors=True)

    def _begin(self, number: int, commands: str) -> None:
        home = self.folder / f"host{number}"
        lines = ["set -e", "mount --make-rprivate /"]
        for place in _HIDDEN:
            own = home / place.name
            own.mkdir(parents=True, exist_ok=True)
            for needed in {Path(sys.base_prefix), Path(sys.prefix), ROOT}:
                if needed.is_relative_to(place):  # the interpreter and the code stay where they are
                    inside = own / needed.relative_to(place)
                    inside.mkdir(parents=True, exist_ok=True)
                    lines.append(f"mount --bind {needed} {inside}")
            lines.append(f"mount --rbind {own} {place}")
        names = [f"{self.address(one)} n{one}\n" for one in range(1, self.count + 1)]
        (home / "hosts").write_text(f"127.0.0.1 localhost\n{self.address(0)} laptop\n{''.join(names)}")
        (home / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # nobody there: unknown names fail at once
        lines += [f"mount --bind {home}/{file} $(readlink -f /etc/{file})" for file in ("hosts", "resolv.conf")]
        lines += ["chmod 1777 /tmp", "mount -t tmpfs -o size=3g tmpfs /dev/shm", "mkdir -p /run/sshd", commands]
        script = home / "init.sh"
        script.write_text("\n".join(lines) + "\n")
        with (home / "log").open("ab") as log:
            self._processes[number] = process = subprocess.Popen(
                ["unshare", "-n", "-m", "-u", "-p", "-f", "--mount-proc", "--kill-child", "bash", str(script)],
                preexec_fn=_die_with_parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pids[number] = _wait_for(lambda: _only_child(process.pid))

    @property
    def numbers(self) -> list[int]:
        """The hosts that are on."""
        return sorted(number for number in self._processes if number)

    def start(self, number: int) -> None:
        """Switch host ``number`` on; its disk is as it was."""
        own = self.address(number)
        server = (
            f"/usr/sbin/sshd -D -e -f /dev/null -o ListenAddress={own} -o HostKey={self.folder}/hostkey -o PidFile=none "
            f"-o AuthorizedKeysFile={self.folder}/key.pub -o StrictModes=no -o UsePAM=no -o PasswordAuthentication=no "
            "-o PermitRootLogin=prohibit-password"
        )
        wait = "until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done"
        network = f"ip link set lo up; ip addr add {own}/24 dev eth0; ip link set eth0 up"
        route = f"ip route add default via {self.address(0)}"
        # bash stays process 1: it takes in the orphans of those who log in.
        self._begin(number, f"hostname n{number}; {wait}; {network}; {route}; {server} & wait $!")
        self._link("add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(self.pids[number]))
        self._link("set", f"v{number}", "master", "bridge", "up")
        _wait_for(lambda: self.on(0, f"bash -c '</dev/tcp/{own}/22' 2>/dev/null", check=False).returncode == 0)

    def _link(self, *words: str) -> None:
        """``ip link`` in the laptop's network, with this machine's process numbers."""
        subprocess.run(["nsenter", "-t", str(self.pids[0]), "-n", "ip", "link", *words], check=True)

    def kill(self, number: int) -> None:
        """Pull the plug of host ``number``."""
        process = self._processes.pop(number)
        process.kill()
        process.wait()
        pid = self.pids.pop(number)
        if number and 0 in self.pids:
            self._link("del", f"v{number}")  # at once, and not when its last process is gone
        _wait_for(lambda: not Path(f"/proc/{pid}").exists())

    def cut(self, number: int) -> None:
        """Cut the link of host ``number``."""
        self._link("set", f"v{number}", "down")

    def join(self, number: int) -> None:
        """Undo :meth:`cut`."""
        self._link("set", f"v{number}", "up")

    def on(self, number: int, command: str, *, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a host, or on the laptop (0), and return what it said."""
        options = {"capture_output": True, "text": True, "timeout": 300, **options}
        done = subprocess.run(self.words(number, command), check=False, **options)
        if check and done.returncode:
            raise AssertionError(f"{command}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def words(self, number: int, command: str) -> Sequence[str]:
        """What runs a shell command on a host, from this machine."""
        keep = {name: value for name, value in os.environ.items() if name in ("LANG", "LC_ALL")}
        path = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        inside = {**keep, "HOME": "/root", "PATH": path, "COLUMNS": "200", "RAY_USAGE_STATS_ENABLED": "0"}
        if number == 0:
            inside |= {"PYTHONPATH": f"{ROOT}:{PACKAGES}", "RAY_AUTH_MODE": "token", "MLFLOW_DISABLE_TELEMETRY": "true"}
        settings = [f"{name}={value}" for name, value in inside.items()]
        enter = ["nsenter", "-t", str(self.pids[number]), "-n", "-m", "-u", "-p", f"--wd={ROOT}"]
        return [*enter, "env", "-i", *settings, "bash", "-c", command]

    def ray_processes(self, number: int) -> list[str]:
        """Command lines of Ray's processes on a host, the dead that nobody has taken in apart."""
        own = os.readlink(f"/proc/{self.pids[number]}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == own:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if any(name in line for name in ("raylet", "gcs_server", "ray::", "ray/_private", "ray/dashboard")):
                        found.append(line)
            except (OSError, ValueError):
                continue  # ended meanwhile
        return found

    def cluster_file(
        self, environment: Mapping[str, object] | None = None, hosts: int | None = None, **metadata: Any
    ) -> Path:
        """Our ``cluster.yaml`` with its places filled in for these hosts: addresses, key, and the environment here.

        Args:
            environment: more variables for all that runs on the hosts.
            hosts: how many of the hosts; default: all.
            metadata: what ``frontier submit`` shall know.
        """
        config = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
        workers = [self.address(number) for number in range(2, (hosts or self.count) + 1)]
        config["provider"].update(head_ip=self.address(1), worker_ips=workers)
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.folder / "key")}
        config["metadata"]["frontier"].update(metadata)
        config["file_mounts"] = {
            there: str(ROOT / here) if here.startswith("./") else here for there, here in config["file_mounts"].items()
        }
        # In place of an installation of 2 GB on each host: the environment that runs these tests, with the code as sent.
        config["setup_commands"][0] = f"ln -sfn {shlex.quote(sys.prefix)} ~/embedding-frontier/.venv"
        more = {"PYTHONPATH": f"$HOME/embedding-frontier:{PACKAGES}", **(environment or {})}
        exports = " ".join(f"{name}={value}" for name, value in more.items())
        config["setup_commands"].append(f"grep -qs PYTHONPATH ~/.bashrc || echo 'export {exports}' >> ~/.bashrc")
        for kind in ("head", "worker"):
            config[f"{kind}_start_ray_commands"] = [
                command.replace("ray start ", "ray start --num-cpus=1 --object-store-memory=200000000 ")
                for command in config[f"{kind}_start_ray_commands"]
            ]
        path = self.folder / "cluster.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False, width=1000))
        return path


def _only_child(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def _wait_for(ready: Any, seconds: float = 20) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = ready()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("a host did not come up, or did not go, in time")
