"""Carries out one row of the fault table on a running lab."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.lab.client import FINAL
from deploy.lab.faults import Faults
from deploy.lab.processes import Failed, Process, wait
from tests.lab.conftest import Lab
from tests.lab.fault_table import BESIDE_TWO, CANCELLED_AT, IN_A_TRANSACTION, ONE_OF_TWO, Case

NODE = "n2"
SECOND = "conductor.second"


class Strike:
    """Sends the request while the point is armed, strikes the part there and brings it back."""

    def __init__(self, lab: Lab, faults: Faults, case: Case) -> None:
        self.lab, self.faults, self.case = lab, faults, case
        self.holder = f"{NODE}.agent" if case.holder == "agent" else case.holder
        name = case.part.partition(",")[0]
        self.part = {"agent": f"{NODE}.agent", "libvirtd": f"{NODE}.libvirtd", "node": NODE}.get(name, name)
        self.key = f"{case} {os.urandom(6).hex()}"
        self.second: Process | None = None

    def around(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to the request; on return the job goes on, with every part back."""
        case = self.case
        if case.way == "undo":
            return self._on_the_way_back(path, body)
        if case.part == ONE_OF_TWO:
            return self._beside_a_second_conductor(path, body)
        if case.point == "agent.hello":
            return self._at_the_hello(path, body)
        if case.part == BESIDE_TWO:
            self.faults.release(self._start_second_conductor())
        armed = self._arm()
        answer = self._send(path, body)
        self._wait_for_its_time(armed)
        if case.way == "cancel":
            self._cancel(answer()["job"]["id"])
        self._strike(armed)
        return answer()

    def _arm(self) -> Path:
        return self.faults.arm(self.holder, self.case.point, "hold", self.case.detail)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self.lab.api.post(path, body, Idempotency_Key=self.key)

    def _strike(self, armed: Path) -> None:
        """The part dies while the holder stands at the point."""
        if not self.part:
            self.faults.release(armed)
        elif self.part == "redis empty":
            self.faults.restart_redis_empty()
            self.faults.release(armed)
        else:
            self.faults.kill(self.part)
            self.faults.release(armed)
            self.faults.start(self.part)

    def _cancel(self, job: str) -> None:
        """A person's cancel; on return it is refused, or the agent has heard it.

        A verb whose reply is sent may have been the pivot, or the last of the job: then either is right.
        """
        taken = self.faults.arm(f"{NODE}.agent", "agent.cancel-taken", "hold")
        status = self.lab.api.request("POST", f"jobs/{job}/cancel/", {}).status
        answered = self.case.point == "agent.reply-sent"
        if status not in (202, 409) if answered else status != (409 if self.case.is_past_pivot else 202):
            raise Failed(f"cancel of job {job}: {status}")
        if status == 202 and not answered:
            self.faults.wait_reached(taken)
        taken.unlink(missing_ok=True)
        self.faults.release(taken)

    def _on_the_way_back(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        turn = self.faults.arm(self.holder, "agent.started-written", "hold", CANCELLED_AT[self.case.operation])
        armed = self._arm()
        answer = self._post(path, body)
        self.faults.wait_reached(turn)
        self._cancel(answer["job"]["id"])
        self.faults.release(turn)
        self.faults.wait_reached(armed)
        self._strike(armed)
        return answer

    def _at_the_hello(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.faults.arm(self.holder, "agent.effect-done", "kill", self.case.detail)
        armed = self.faults.arm(self.holder, self.case.point, "hold")
        answer = self._post(path, body)
        self.faults.wait_dead(self.holder)
        self.faults.start(self.holder)
        self.faults.wait_reached(armed)
        self._strike(armed)
        return answer

    def _beside_a_second_conductor(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Both have heard the same; the second does the work while the first stands still.

        The first then goes on with what it knew, or, where it stands in a transaction and so in everybody's way, dies.
        """
        held = self._start_second_conductor()
        armed = self._arm()
        answer = self._send(path, body)
        self._wait_for_its_time(armed)
        if self.case.point in IN_A_TRANSACTION:
            self.faults.kill("conductor")
        self.faults.release(held)
        job = answer()["job"]["id"]
        wait(lambda: self.lab.api.job(job)["state"] in FINAL, 60, "the second conductor to end the job")
        self.faults.release(armed)
        self.faults.start("conductor")
        return answer()

    def _start_second_conductor(self) -> Path:
        """On return it waits, connected and with nothing in its hands, to be released."""
        state = self.lab.demo.state
        self.second = state.process(SECOND)
        held = self.faults.arm(SECOND, "conductor.read", "hold")
        self.second.start([state.python, "manage.py", "conductor", "--without-lease"], state.panel_environment(SECOND))
        self.faults.wait_reached(held)
        return held

    def _wait_for_its_time(self, armed: Path) -> None:
        for _ in range(self.case.times - 1):
            self.faults.wait_reached(armed)
            self.faults.arm_again(armed)
        self.faults.wait_reached(armed)

    def _send(self, path: str, body: dict[str, Any]) -> Callable[[], dict[str, Any]]:
        """The request is on its way; the function returned waits for its answer.

        Whoever stands at the point may stand in its way: web itself, or a conductor in a transaction. The person's
        browser then sends again, with the same key, until it is answered.
        """
        answers: list[dict[str, Any]] = []

        def try_once() -> bool:
            with suppress(OSError, Failed):
                answers.append(self._post(path, body))
            return bool(answers)

        first = threading.Thread(target=try_once)
        first.start()

        def answer() -> dict[str, Any]:
            first.join()
            if not answers:
                wait(try_once, 30, "the panel to take the request")
            return answers[0]

        return answer

    def end(self) -> None:
        if self.second is not None:
            self.second.kill()
