"""``python -m tests.bench.volumes KIND NAME [CONFIG]``: makes and deletes a volume by the bare tool, and says how long
that took in ms. Runs inside the node. ``CONFIG``: of Ceph's client.
"""

import subprocess
import sys
import time
from pathlib import Path

from deploy.lab.ceph import POOL, USER
from deploy.lab.node import IMAGES

GROUP = "vg0"
MIB = 128


def commands(kind: str, name: str, config: str = "") -> list[list[str]]:
    file = str(Path("/") / IMAGES / f"{name}.qcow2")
    rbd = ["rbd", "-c", config, "--id", USER]
    return {
        "qcow2": [["qemu-img", "create", "-q", "-f", "qcow2", file, f"{MIB}M"], ["rm", file]],
        "lvm": [
            ["lvcreate", "--yes", "--quiet", "--name", name, "--size", f"{MIB}m", GROUP],
            ["lvremove", "--yes", "--quiet", f"{GROUP}/{name}"],
        ],
        "rbd": [
            [*rbd, "create", "--size", f"{MIB}M", f"{POOL}/{name}"],
            [*rbd, "rm", "--no-progress", f"{POOL}/{name}"],
        ],
    }[kind]


if __name__ == "__main__":
    argvs = commands(*sys.argv[1:])
    began = time.monotonic()
    for argv in argvs:
        subprocess.run(argv, check=True, capture_output=True)
    print((time.monotonic() - began) * 1000)
