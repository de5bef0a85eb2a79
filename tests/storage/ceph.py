"""A Ceph as small as it can be: a monitor, an OSD in memory, a manager; on loopback, in one folder, with cephx."""

import json
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

POOL, USER = "volumes", "ulei"
STORE_BYTES = 1 << 30
PATIENCE_S = 60.0
CONFIGURATION = """\
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{port}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr2 = false
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
auth_allow_insecure_global_id_reclaim = false
keyring = {folder}/$name.keyring
run_dir = {folder}
log_file = {folder}/$name.log
admin_socket = {folder}/$name.asok
pid_file = {folder}/$name.pid
mon_data = {folder}/mon
mon_data_avail_crit = 1
osd_data = {folder}/osd
osd_objectstore = memstore
osd_pg_stat_report_interval_max = 1
memstore_device_bytes = {store_bytes}
mgr_data = {folder}/mgr
mgr_initial_modules =
mgr_tick_period = 1
mgr_stats_period = 1
"""


class Ceph:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fsid = str(uuid.uuid4())
        self.port = _free_port()
        self.monitors = (f"127.0.0.1:{self.port}",)
        self._processes: list[subprocess.Popen[bytes]] = []
        for part in ("mon", "osd", "mgr"):
            (folder / part).mkdir()
        self._conf = folder / "ceph.conf"
        self._conf.write_text(
            CONFIGURATION.format(fsid=self.fsid, port=self.port, folder=folder, store_bytes=STORE_BYTES)
        )

    def start(self) -> None:
        self._start_monitor()
        self._start_osd()
        self._let_in("mgr.x", mon="allow profile mgr", osd="allow *")
        self._run("ceph-mgr", "-i", "x")
        self.ceph("osd", "pool", "create", POOL, "8")
        self.ceph("osd", "pool", "application", "enable", POOL, "rbd")
        self.key = self._let_in(f"client.{USER}", mon="profile rbd", osd=f"profile rbd pool={POOL}")
        deadline = time.monotonic() + PATIENCE_S
        while not self.free_bytes():  # the manager tells it to the monitor in its own time
            assert time.monotonic() < deadline, "the manager tells nothing of the room"
            time.sleep(0.1)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    @contextmanager
    def away(self, daemon: Literal["mon", "osd"]) -> Iterator[None]:
        """It says nothing to anybody, as behind a cut cable."""
        process = self._processes[["mon", "osd"].index(daemon)]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def _start_monitor(self) -> None:
        keyring, first = self.folder / "mon.a.keyring", self.folder / "client.admin.keyring"
        everything = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        _do("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        _do("ceph-authtool", "--create-keyring", first, "--gen-key", "-n", "client.admin", *everything)
        _do("ceph-authtool", keyring, "--import-keyring", first)
        address = f"[v1:127.0.0.1:{self.port}]"
        _do("monmaptool", "--create", "--addv", "a", address, "--fsid", self.fsid, self.folder / "monmap")
        monmap = ["--monmap", self.folder / "monmap"]
        _do("ceph-mon", "-c", self._conf, "--mkfs", "-i", "a", *monmap, "--keyring", keyring)
        self._run("ceph-mon", "-i", "a")

    def _start_osd(self) -> None:
        identity = str(uuid.uuid4())
        self.ceph("osd", "new", identity)
        self._let_in("osd.0", mon="allow profile osd", osd="allow *", mgr="allow profile osd")
        _do("ceph-osd", "-c", self._conf, "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._run("ceph-osd", "-i", "0")

    def _let_in(self, name: str, **may: str) -> str:
        """Returns the key."""
        caps = [word for pair in may.items() for word in pair]
        keyring = self.folder / f"{name}.keyring"
        self.ceph("auth", "get-or-create", name, *caps, "-o", str(keyring))
        return self.ceph("auth", "print-key", name).strip()

    def _run(self, *argv: str) -> None:
        with (self.folder / f"{argv[0]}.out").open("wb") as out:
            self._processes.append(
                subprocess.Popen([argv[0], "-f", "-c", str(self._conf), *argv[1:]], stdout=out, stderr=out)
            )

    def ceph(self, *argv: str) -> str:
        return _do("ceph", "-c", self._conf, "--connect-timeout", "20", *argv)

    def rbd(self, *argv: str) -> str:
        """As the cluster's administrator."""
        return _do("rbd", "-c", self._conf, "-p", POOL, *argv)

    def rados(self, *argv: str) -> str:
        return _do("rados", "-c", self._conf, "-p", POOL, *argv)

    def free_bytes(self) -> int:
        pools = json.loads(self.ceph("df", "--format", "json"))["pools"]
        return next((int(pool["stats"]["max_avail"]) for pool in pools if pool["name"] == POOL), 0)


def _do(*argv: object) -> str:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
