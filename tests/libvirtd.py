"""A libvirtd for tests that need no lab: real, for guests under QEMU, and apart from one that this machine may have."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 30.0
LIBVIRTD_CONF = 'auth_unix_rw = "none"\n'
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
OWN_PLACES = """\
for path in etc/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt run/libvirt; do
    mkdir -p "/$path" "$0/$path"
    mount --bind "$0/$path" "/$path"
done
exec libvirtd --pid-file "$0/libvirtd.pid"
"""


@contextmanager
def a_libvirtd(root: Path) -> Iterator[str]:
    """Its URI. It sees /etc, /var and /run of its own, below ``root``."""
    (root / "etc/libvirt").mkdir(parents=True)
    (root / "etc/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF)
    (root / "etc/libvirt/qemu.conf").write_text(QEMU_CONF)
    socket, log = root / "run/libvirt/libvirt-sock", root / "libvirtd.log"
    argv = ["unshare", "--mount", "--propagation", "private", "bash", "-euc", OWN_PLACES, str(root)]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not socket.exists():
            assert time.monotonic() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield f"qemu+unix:///system?socket={socket}"
    finally:
        process.terminate()
        process.wait()
