"""``python -m deploy.lab.storage``: Ceph and the LVM node, brought up beside a demo that is ready without them."""

import os
import sys
import time

from deploy.lab.ceph import MONITOR, POOL, USER, Ceph
from deploy.lab.client import Api
from deploy.lab.processes import ROOT, Failed, Process, run
from deploy.lab.state import State
from deploy.lab.uml import UmlNode


class Storage:
    def __init__(self, state: State) -> None:
        self.state = state
        self.ceph = Ceph(state)
        self.node = UmlNode(state, state.uml_node)
        self.starting = state.process("storage")
        """The process that brings both up; it ends when they are."""
        self._wanted = state.folder / "run/storage.wanted"

    @property
    def known(self) -> bool:
        """Whether this state folder has it, or is to get it."""
        return self._wanted.exists() or self.node.folder.exists()

    @property
    def needed(self) -> bool:
        """Whether the demo's last start asked for it, and it had its time to come up."""
        return self._wanted.exists() and self.starting.pid() is None

    def want(self, wanted: bool) -> bool:
        self._wanted.touch() if wanted else self._wanted.unlink(missing_ok=True)
        return wanted

    def processes(self) -> list[Process]:
        return [*self.ceph.processes(), *self.node.processes()]

    def start_detached(self) -> None:
        # The caller's environment: what this starts gets a clean one, but apt may need a proxy of his.
        named = {"ULEI_STATE": str(self.state.folder), "ULEI_PORT": str(self.state.port)}
        self.starting.start([self.state.python, "-m", "deploy.lab.storage"], {**os.environ, **named})

    def offer_pools(self, api: Api) -> None:
        """Pools of all that has come up, by the names ``lvm``, ``thin`` and ``ceph``; those that are there stay."""
        nodes = {row["name"]: row["id"] for row in api.all("nodes/") if row["state"] == "online"}
        here = [nodes[self.node.name]]
        key = {"monitors": [f"{MONITOR}:6789"], "user": USER, "key": self.ceph.key}
        wanted = {
            "lvm": {"kind": "lvm", "nodes": here, "path": "vg0"},
            "thin": {"kind": "lvmthin", "nodes": here, "path": "vg0/thin"},
            "ceph": {"kind": "rbd", "nodes": sorted(nodes.values()), "path": POOL, **key},
        }
        known = {row["name"] for row in api.all("pools/")}
        for name, pool in wanted.items():
            if name not in known:
                api.do("pools/", {"name": name, **pool})


def main() -> int:
    from deploy.lab.demo import Demo

    began = time.monotonic()
    demo = Demo(State.from_environment())
    print(f"{time.strftime('%F %T')} storage comes up", flush=True)
    try:
        run(str(ROOT / "deploy/install"), "--storage")
        demo.start_storage()
    except Failed as failure:
        print(f"FAILED: {failure}\n  deploy/demo tries again", flush=True)
        return 1
    print(f"Ceph and {demo.storage.node.name} serve after {time.monotonic() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
