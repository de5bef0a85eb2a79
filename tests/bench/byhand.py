"""The panel's side of :mod:`tests.bench.bare`: gives orders to the process on the node."""

import json
import subprocess
from typing import Any

from deploy.lab.node import Node
from deploy.lab.processes import ROOT, Failed


class ByHand:
    def __init__(self, node: Node) -> None:
        argv = node.enter("python", "-m", "tests.bench.bare")
        self._process = subprocess.Popen(
            argv, cwd=ROOT, env=node.environment("bare"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def __enter__(self) -> "ByHand":
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self.do("clean")
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)

    def do(self, what: str, **order: Any) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": what, **order}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def ms(self, what: str, **order: Any) -> float:
        answer = self.do(what, **order)
        return (answer["ended"] - answer["began"]) * 1000

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the process on the node ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(f"by hand: {answer['error']}")
        return answer
