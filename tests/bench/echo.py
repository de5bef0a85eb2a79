"""``python -m tests.bench.echo``: answers on a node what comes by Redis, with nothing else. Runs inside the node.

By the same user, the same TLS and the same kinds of keys as the agent's: a message comes by a list, its answer goes to
a stream. It ends with its standard input.
"""

import os
import sys
import threading

from nodes.config import load
from nodes.contract.wire import key_prefix
from nodes.stream import connect

LISTEN_S = 2


def ping_key(node_id: str) -> str:
    return key_prefix(node_id) + "bench.ping"


def pong_key(node_id: str) -> str:
    return key_prefix(node_id) + "bench.pong"


def main() -> None:
    config = load()
    client = connect(config)
    threading.Thread(target=_end_with_input, daemon=True).start()
    print("ready", flush=True)
    while True:
        found = client.brpop([ping_key(config.id)], timeout=LISTEN_S)
        if found:
            client.xadd(pong_key(config.id), {"e": found[1]}, maxlen=100, approximate=True)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
