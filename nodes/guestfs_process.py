"""Run as a process of its own, so that it can be ended: clean one image of what only one machine may have.

A guest's file systems are not to be trusted, so libguestfs opens them, in a small virtual machine of its own. Knows
nothing of the agent. Source: guestfs(3), guestfs-python(3); machine-id(5) of what an empty one means.
"""

import importlib
import sys
from typing import Any

UNSUPPORTED, FAILED = 3, 4
"""Statuses of the process: there is no Linux in the image; something else."""

EMPTIED = ("/etc/machine-id", "/etc/udev/rules.d/70-persistent-net.rules")
REMOVED = ("/etc/ssh/ssh_host_*", "/var/lib/cloud/instances/*", "/var/lib/cloud/instance")
DBUS_MACHINE_ID = "/var/lib/dbus/machine-id"


def main(image: str, virt: str) -> int:
    disk = importlib.import_module("guestfs").GuestFS(python_return_dict=True)
    disk.set_backend("direct")
    if virt != "kvm":
        disk.set_backend_settings(["force_tcg"])
    disk.add_drive_opts(image, format="qcow2")
    try:
        disk.launch()
        if not _mount(disk):
            sys.stderr.write("no Linux was found in it\n")
            return UNSUPPORTED
        clean(disk)
        disk.umount_all()
        disk.shutdown()
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    finally:
        disk.close()
    return 0


def _mount(disk: Any) -> bool:
    """The file systems of the one Linux in the image, as its fstab says; False: there is none, or more than one."""
    roots = [root for root in disk.inspect_os() if disk.inspect_get_type(root) == "linux"]
    if len(roots) != 1:
        return False
    places = disk.inspect_get_mountpoints(roots[0])
    for place in sorted(places, key=len):
        try:
            disk.mount(places[place], place)
        except RuntimeError:
            # A disk of data may have stayed with the VM; what is to be cleaned must be there.
            if any(path.startswith(place.rstrip("/") + "/") for path in (*EMPTIED, *REMOVED, DBUS_MACHINE_ID)):
                raise
    return True


def clean(disk: Any) -> None:
    for path in EMPTIED:
        if disk.is_file(path, followsymlinks=True):
            disk.truncate(path)
    for pattern in REMOVED:
        for path in disk.glob_expand(pattern, directoryslash=False):
            disk.rm_rf(path)
    # A link to the other is well; a file of its own would give the next machine this one's id again.
    if disk.is_file(DBUS_MACHINE_ID, followsymlinks=False):
        disk.rm(DBUS_MACHINE_ID)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
