"""Makes the rows of a cluster; the others of this folder then find them."""

import json
import sys

import django

django.setup()

from tests.bench.work.rows import Filler, make_nodes  # noqa: E402


def main(nodes: int, vms: int) -> None:
    """``vms`` on each node."""
    Filler(make_nodes(nodes)).fill_up(nodes * vms)
    print(json.dumps({"nodes": nodes, "vms": nodes * vms}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
