"""Each part killed at each point of a create and of a delete (design 4 and 5, on real parts).

Whatever dies, wherever: once it is back the job settles by itself, as done or as never having been, no guest ran
twice meanwhile (the ``faults`` fixture watches), and the audit is clean. The budgeted run takes a seeded sample;
``deploy/test --full`` runs every case.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.faults import Faults
from deploy.lab.processes import ROOT, Failed, wait
from tests.lab.conftest import Lab, sample

SAMPLE = int(os.environ.get("ULEI_TEST_SAMPLE") or 8)

VERBS = {
    "vm.create": ["disk.create", "nic.plug", "domain.define", "domain.start"],
    "vm.delete": ["domain.stop", "domain.undefine", "disk.delete", "nic.unplug"],
}
AGENT_POINTS = [
    "agent.taken",
    "agent.started-written",
    "agent.effect-done",
    "agent.reply-written",
    "agent.reply-sent",
]
# Saves of a job, counted from its start; a create and a delete have at least these many.
SAVES = range(1, 5)


@dataclass(frozen=True)
class Case:
    """``victim`` dies when ``holder`` comes by the point for the ``times``-th time."""

    operation: str
    victim: str
    holder: str
    point: str
    detail: str
    times: int = 1

    def __str__(self) -> str:
        times = f" #{self.times}" if self.times > 1 else ""
        return f"{self.operation}: {self.victim} at {self.point} {self.detail}{times}"


def cases() -> Iterator[Case]:
    for operation, verbs in VERBS.items():
        for verb in verbs:
            for point in AGENT_POINTS:
                for victim in ("agent", "libvirtd", "redis", "redis empty", "node"):
                    yield Case(operation, victim, "agent", point, verb)
        for times in SAVES:
            for point in ("engine.before-commit", "engine.after-commit"):
                for victim in ("conductor", "redis", "web"):
                    yield Case(operation, victim, "conductor", point, operation, times)
        for point in ("start.before-commit", "start.after-commit"):
            for victim in ("web", "redis"):
                yield Case(operation, victim, "web", point, operation)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """The fault table, kept beside the test's other results."""
    rows = ["| operation | killed | point | job | VM | audit |", "| --- | --- | --- | --- | --- | --- |"]
    yield rows
    folder = Path(os.environ.get("ULEI_STATE") or ROOT / "var/test")
    (folder / "faults.md").write_text("\n".join([*rows, ""]))


@pytest.mark.parametrize("case", sample(cases(), SAMPLE), ids=str)
def test_a_killed_part_leaves_nothing_behind(lab: Lab, faults: Faults, table: list[str], case: Case):
    vm = None if case.operation == "vm.create" else lab.create(node=lab.node_id("n2"))["id"]
    strike = Strike(lab, faults, case)
    path = "vms/" if vm is None else f"vms/{vm}/delete/"
    body = lab.vm_body(node=lab.node_id("n2")) if vm is None else {"disks": True}
    answer = strike.around(path, body)
    job = lab.api.follow(answer["job"]["id"], 120)
    wait(lab.api.ready, 30, "the panel to be ready")
    vm = vm or answer["vm"]["id"]
    left = lab.api.request("GET", f"vms/{vm}/").status
    table.append(
        f"| {case.operation} | {case.victim} | {case.point} {case.detail} #{case.times} | {job['state']} "
        f"| {'there' if left == 200 else 'gone'} | {len(lab.audit())} differences |"
    )
    assert job["state"] in ("succeeded", "failed"), job
    if case.operation == "vm.create":
        assert (left == 200) == (job["state"] == "succeeded")
    else:
        assert (left == 404) == (job["state"] == "succeeded")


class Strike:
    """Sends the request while the point is armed, kills the victim there and brings it back."""

    def __init__(self, lab: Lab, faults: Faults, case: Case) -> None:
        self.lab, self.faults, self.case = lab, faults, case
        self.holder = "n2.agent" if case.holder == "agent" else case.holder
        self.victim = {"agent": "n2.agent", "libvirtd": "n2.libvirtd", "node": "n2"}.get(case.victim, case.victim)

    def around(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        armed = self.faults.arm(self.holder, self.case.point, "hold", self.case.detail)
        key = f"{self.case} {os.urandom(6).hex()}"
        if self.case.holder == "web":
            return self._through_a_dying_web(path, body, key, armed)
        answer = self.lab.api.post(path, body, Idempotency_Key=key)
        for _ in range(self.case.times - 1):
            self.faults.wait_reached(armed)
            self.faults.arm_again(armed)
        self._strike(armed)
        return answer

    def _strike(self, armed: Path) -> None:
        self.faults.wait_reached(armed)
        if self.case.victim == "redis empty":
            self.faults.restart_redis_empty()
        else:
            self.faults.kill(self.victim)
        self.faults.release(armed)
        if self.case.victim != "redis empty":
            self.faults.start(self.victim)

    def _through_a_dying_web(self, path: str, body: dict[str, Any], key: str, armed: Path) -> dict[str, Any]:
        """The person's browser sends again, with the same key, until it is answered."""
        first = threading.Thread(target=lambda: self._send(path, body, key))
        first.start()
        self._strike(armed)
        first.join()
        return wait(lambda: self._send(path, body, key), 30, "the panel to take the request")

    def _send(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any] | None:
        with suppress(OSError, Failed):
            return self.lab.api.post(path, body, Idempotency_Key=key)
        return None
