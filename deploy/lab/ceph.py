"""A Ceph of one monitor, one OSD and one manager in the lab's network, with cephx, without systemd.

The nodes reach it at 10.99.0.1 (ports 3300 and 6789) as the user ``client.ulei``, who may use RBD in one pool. Its
store is a sparse file under the real BlueStore: a killed OSD comes back with what it had.
"""

import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor

from deploy.lab.processes import Process, run
from deploy.lab.state import LAB_ADDRESS, State

POOL = "ulei"
USER = "ulei"
MONITOR = LAB_ADDRESS
STORE_BYTES = 8 * 2**30

MAY_LET_IN = 'allow command "osd blocklist" with blocklistop=rm'

DAEMONS = {"mon": "a", "osd": "0", "mgr": "x"}
"""Daemon -> its id, in the order of their start."""
CAPS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "osd.0": ("mon", "profile osd", "osd", "allow *", "mgr", "profile osd"),
    "mgr.x": ("mon", "profile mgr", "osd", "allow *"),
    # docs.ceph.com, "RBD commands and users": no more than RBD needs, and in this pool only; and to let in again a node
    # that was shut out, for the profile lets its user only shut one out.
    f"client.{USER}": (
        "mon",
        f"profile rbd, {MAY_LET_IN}",
        "osd",
        f"profile rbd pool={POOL}",
        "mgr",
        f"profile rbd pool={POOL}",
    ),
}
CONFIG = """\
[global]
fsid = {fsid}
mon_host = {address}
public_addr = {address}
cluster_addr = {address}
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
ms_bind_ipv6 = false
log_file =
log_to_stderr = true
err_to_stderr = true
# No sockets and pid files of its own: a socket's path would be too long in some state folders.
admin_socket =
pid_file =
run_dir = {folder}
# One OSD is all there is.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
auth_allow_insecure_global_id_reclaim = false

[client.admin]
keyring = {folder}/admin.keyring

[mon]
mon_data = {folder}/mon
mon_cluster_log_file =
mon_data_avail_crit = 1
mon_data_avail_warn = 1

[osd]
osd_data = {folder}/osd
osd_objectstore = bluestore
bluestore_block_size = {store_bytes}
osd_memory_target = 939524096
# The OSD says goodbye to the monitor, so its successor is let in at once and not after 20 s of silence.
osd_fast_shutdown = false

[mgr]
mgr_data = {folder}/mgr
"""
CLIENT_CONFIG = """\
[global]
mon_host = {address}
keyring = {folder}/{user}.keyring
log_file =
admin_socket =
"""
TIMEOUT_S = 90
"""Of one command; some wait until the cluster serves."""


class Ceph:
    def __init__(self, state: State) -> None:
        self.state = state
        self.folder = state.folder / "ceph"
        self.client_config = self.folder / f"{USER}.conf"
        """``rbd -c FILE --id ulei`` works with it on every node."""

    def process(self, daemon: str) -> Process:
        return self.state.process(f"ceph.{daemon}")

    def processes(self) -> list[Process]:
        return [self.process(daemon) for daemon in DAEMONS]

    @property
    def key(self) -> str:
        """The secret of ``client.ulei``."""
        return self._run("ceph-authtool", str(self.folder / f"{USER}.keyring"), "-p", "-n", f"client.{USER}").strip()

    def start(self) -> None:
        """Makes it at the first time; returns when the pool answers the user."""
        stamp = self.folder / "made"
        if not stamp.exists():
            self._make()
            stamp.touch()
        for daemon in DAEMONS:
            self._start(daemon)
        self._rbd("ls", POOL)

    def stop(self) -> None:
        for daemon in reversed(DAEMONS):
            self.process(daemon).stop()

    def _make(self) -> None:
        """What an interrupted attempt left is thrown away: nobody has used it."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        for daemon in DAEMONS:
            (self.folder / daemon).mkdir()
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        facts = {"fsid": fsid, "address": LAB_ADDRESS, "folder": self.folder, "store_bytes": STORE_BYTES, "user": USER}
        (self.folder / "ceph.conf").write_text(CONFIG.format(**facts))
        self.client_config.write_text(CLIENT_CONFIG.format(**facts))
        self._make_keys()
        with ThreadPoolExecutor(1) as at_once:
            self._make_monitor(fsid)
            self._start("mon")
            store = at_once.submit(self._ceph_osd_mkfs, osd)  # it asks the monitor for the map
            self._ceph("osd", "new", osd, DAEMONS["osd"])
            store.result()
        self._start("osd")
        self._start("mgr")
        # The pool is made while the OSD comes up, and begins to answer when it is there.
        self._ceph("osd", "pool", "create", POOL)
        self._ceph("osd", "pool", "application", "enable", POOL, "rbd")

    def _make_keys(self) -> None:
        """Every key goes into the monitor's first keyring, so nobody needs to be added later."""
        own = {
            "mon.": "mon.keyring",  # not in the monitor's folder: one that is not empty counts as made
            "client.admin": "admin.keyring",
            "osd.0": "osd/keyring",
            "mgr.x": "mgr/keyring",
            f"client.{USER}": f"{USER}.keyring",
        }
        for name, caps in CAPS.items():
            pairs = zip(caps[::2], caps[1::2], strict=True)
            given = [word for service, cap in pairs for word in ("--cap", service, cap)]
            self._run("ceph-authtool", "--create-keyring", own[name], "--gen-key", "-n", name, *given)
        for name in list(CAPS)[1:]:
            self._run("ceph-authtool", own["mon."], "--import-keyring", own[name])

    def _make_monitor(self, fsid: str) -> None:
        both = f"[v2:{LAB_ADDRESS}:3300,v1:{LAB_ADDRESS}:6789]"
        self._run("monmaptool", "--create", "--clobber", "--addv", "a", both, "--fsid", fsid, "monmap")
        self._run(*self._daemon("mon"), "--mkfs", "--monmap", "monmap", "--keyring", "mon.keyring")

    def _ceph_osd_mkfs(self, osd: str) -> None:
        self._run(*self._daemon("osd"), "--mkfs", "--osd-uuid", osd)

    def _daemon(self, daemon: str) -> list[str]:
        return [f"ceph-{daemon}", "-c", str(self.folder / "ceph.conf"), "-i", DAEMONS[daemon]]

    def _start(self, daemon: str) -> None:
        process = self.process(daemon)
        process.start(self.state.in_lab(*self._daemon(daemon), "-f"), self.state.environment(process.name))

    def _ceph(self, *command: str) -> str:
        return self._run("ceph", "-c", "ceph.conf", "--connect-timeout", "30", *command)

    def _rbd(self, *command: str) -> str:
        """As the user of the nodes. An operation waits until the pool can answer it."""
        return self._run("rbd", "-c", str(self.client_config), "--id", USER, *command)

    def _run(self, *argv: str) -> str:
        limited = self.state.in_lab("timeout", str(TIMEOUT_S), *argv)
        return run(*limited, cwd=self.folder, env=self.state.environment("ceph")).stdout
