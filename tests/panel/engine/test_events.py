"""A page that was loaded before an operation and heard every frame knows what a page loaded afterwards shows."""

from typing import Any

import pytest

from cluster import events, job_words
from cluster.events import group
from cluster.models import Job, Node, Vm
from cluster.permissions import Actor
from cluster.saga.steps import Operation
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor, Fault

pytestmark = pytest.mark.django_db(transaction=True)

SECRETS = ("token", "password", "secret", "params", "body")


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Everything that left after a commit, as (group, frame)."""
    heard: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(events, "_send", heard.extend)
    monkeypatch.setattr("cluster.wake.conductor", lambda job="": None)
    return heard


def last(frames: list[tuple[str, dict[str, Any]]], kind: str, pk: str) -> dict[str, Any] | None:
    """What a page that follows one thing holds: the frame with the highest version."""
    every = [frame for name, frame in frames if name == group(kind + "s") and frame["id"] == pk]
    mine = [frame for frame in every if frame["type"] != "progress"]
    return max(mine, key=lambda frame: frame["version"]) if mine else None


@pytest.mark.parametrize("fault", [None, "refused"])
@pytest.mark.parametrize("code", sorted(Operation.registry))
def test_the_last_frame_of_each_thing_is_what_its_row_says(
    scene: Scene, frames: list[tuple[str, dict[str, Any]]], code: str, fault: Fault | None
) -> None:
    before = set(Vm.objects.values_list("pk", flat=True))
    executor = Executor(world=scene.world, fault=lambda n, e: fault if n == 0 and e.phase == "do" else None)
    job = executor.run(scene.start(code).job)
    if job.steps.filter(waits_for_click=True).exists() and not job.is_final:
        job_words.proceed(Actor(job.user, job.grant), job)  # type: ignore[arg-type]
        job = executor.run(job)
    heard_job = last(frames, "job", job.pk)
    assert heard_job
    assert (heard_job["state"], heard_job["version"]) == (job.state, Job.objects.get(pk=job.pk).version)
    for vm in Vm.objects.all():
        heard = last(frames, "vm", vm.pk)
        if heard:
            assert (heard["state"], heard["version"]) == (vm.state, vm.version)
        else:
            assert vm.pk in before
            assert vm.version == 1
    for gone in before - set(Vm.objects.values_list("pk", flat=True)):
        heard = last(frames, "vm", gone)
        assert heard
        assert heard["type"] == "deleted"
    for node in Node.objects.all():
        heard = last(frames, "node", node.pk)
        assert heard is None or (heard["state"], heard["version"]) == (node.state, node.version)


def test_frames_are_small_and_hold_no_secrets(scene: Scene, frames: list[tuple[str, dict[str, Any]]]) -> None:
    Executor(world=scene.world).run(scene.start("vm.create").job)
    for _name, frame in frames:
        assert len(str(frame)) < 400
        assert not set(frame) & set(SECRETS)
