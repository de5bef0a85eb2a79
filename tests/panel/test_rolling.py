"""In which order nodes can be rebooted."""

import pytest

from cluster import rolling
from cluster.models import Node, Vm
from nodes.contract.sizes import GIB
from tests.panel.engine.scenarios import Scene, second_node

pytestmark = pytest.mark.django_db


@pytest.fixture
def there(scene: Scene) -> Node:
    return second_node(scene)[0]


def test_the_one_with_the_least_to_do_comes_first(scene: Scene, there: Node) -> None:
    turns = rolling.order(scene.actor)
    assert [(turn.node.name, len(turn.moves), turn.staying) for turn in turns] == [("n2", 0, []), ("n1", 2, [])]
    Vm.objects.update(node=there)
    assert [turn.node.name for turn in rolling.order(scene.actor)] == ["n1", "n2"]


def test_one_that_cannot_be_emptied_comes_last_and_says_why(scene: Scene, there: Node) -> None:
    Node.objects.filter(pk=there.pk).update(memory_bytes=GIB)
    Vm.objects.filter(pk=scene.running.pk).update(memory_bytes=4 * GIB)
    last = rolling.order(scene.actor)[-1]
    assert [(row.vm.name, [reason.code for reason in row.reasons]) for row in last.staying] == [
        ("vm-running", ["no_memory"])
    ]
    assert last.said()["possible"] is False


def test_one_that_does_not_answer_has_no_turn(scene: Scene, there: Node) -> None:
    Node.objects.filter(pk=there.pk).update(state="offline")
    assert [turn.node.name for turn in rolling.order(scene.actor)] == ["n1"]
