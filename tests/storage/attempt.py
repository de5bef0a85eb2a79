"""One call of a driver in a process of its own, which a named point may kill: ``python -m tests.storage.attempt``.

Reads from stdin: pool, keys, the call and its arguments.
"""

import json
import sys
from pathlib import Path
from typing import Any

from nodes.contract.specs import DiskSpec, PoolSpec, VolumeSpec
from nodes.shell import Cancellation, Shell
from nodes.storage import driver_of
from tests.storage.places import nobody


def perform(pool: PoolSpec, keys: Path, call: str, arguments: dict[str, Any]) -> None:
    driver = driver_of(pool, Shell(), keys)
    disk = DiskSpec.model_validate(arguments["disk"])
    volume = disk.id, disk.format
    source = VolumeSpec.model_validate(arguments["source"]) if "source" in arguments else None
    match call:
        case "create":
            driver.create(disk, Cancellation())
        case "delete":
            driver.delete(*volume, nobody)
        case "rename":
            driver.rename(*volume, arguments["new"], nobody)
        case "take":
            driver.take(*volume, arguments["name"], nobody)
        case "give_back":
            driver.give_back(*volume, arguments["name"])
        case "resize":
            driver.resize(*volume, disk.size_bytes, leave_to_qemu=False)
        case "clone":
            assert source
            driver.clone(disk, driver, source, None, Cancellation())
        case "link":
            assert source
            driver.link(disk, source, None)
        case "snapshot":
            driver.snapshot(*volume, arguments["snapshot"], None)
        case "delete_snapshot":
            driver.delete_snapshot(*volume, arguments["snapshot"])
        case "revert":
            driver.revert(*volume, arguments["snapshot"])


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    perform(PoolSpec.model_validate(asked["pool"]), Path(asked["keys"]), asked["call"], asked["arguments"])
