"""From a click to the moment at which a verb is in the agent's hands, beside a raw round trip over the same Redis.

The verb is the demo operation's: its effect is a small file, and its job is cancelled at once afterwards. The moment
is a note of the agent (nodes/contract/faults.py); apart from that one file's look-up per point, nothing is added.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from deploy.lab.node import Node
from deploy.lab.processes import ROOT
from deploy.lab.state import State
from tests.bench.bench import Bench
from tests.bench.echo import ping_key, pong_key
from tests.bench.notes import Notes
from tests.bench.row import Result, Row, compared, measures
from tests.bench.statistics import Limit, interleaved

NODE = "n2"
ROW = Row(
    "click",
    "click to verb taken by the agent / Redis round trip (list, stream)",
    goal=(Limit("ours", 15),),
)


@measures(ROW)
def click(bench: Bench) -> Iterator[Result]:
    lab = bench.lab
    node_id = lab.node_id(NODE)
    state = lab.demo.state
    notes = Notes(lab, [f"{NODE}.agent"], ["agent.taken"])
    listener = bench.listener

    def ours() -> float:
        told = bench.caller.post(f"nodes/{node_id}/wait/")
        taken = notes.wait_for("agent.taken", told.began)
        bench.caller.post(f"jobs/{told.body['job']['id']}/cancel/")
        listener.job_ends(told.body["job"]["id"])
        return (taken.at - told.began) * 1000

    with notes.taken(), _echo(lab.nodes[NODE]), _client(state) as client:

        def bare() -> float:
            last = client.xrevrange(pong_key(node_id), count=1)
            began = time.monotonic()
            client.lpush(ping_key(node_id), "x" * 600)
            client.xread({pong_key(node_id): last[0][0] if last else "0-0"}, block=5000)
            return (time.monotonic() - began) * 1000

        for _ in range(3):
            bare()
            ours()
        bench.wait_quiet()
        samples = interleaved(bench.pairs, {"bare": bare, "ours": ours})
        client.delete(ping_key(node_id), pong_key(node_id))
    yield compared(ROW, samples)


@contextmanager
def _echo(node: Node) -> Iterator[None]:
    argv = node.enter("python", "-m", "tests.bench.echo")
    pipe = subprocess.PIPE
    # Leaving the block closes its standard input, and with that it ends.
    with subprocess.Popen(argv, cwd=ROOT, env=node.environment("echo"), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        yield


def _client(state: State) -> redis.Redis:
    password = state.panel_secrets()["ULEI_REDIS_CONDUCTOR_PASSWORD"]
    return redis.Redis(unix_socket_path=str(state.redis_socket), username="conductor", password=password)
