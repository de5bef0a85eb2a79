"""How many nodes a demo's state folder has."""

from pathlib import Path

import pytest

from deploy.lab.processes import Failed
from deploy.lab.state import State


def test_a_folder_has_two_nodes_or_as_many_as_were_asked_for_and_the_lvm_node_comes_behind_them(tmp_path: Path) -> None:
    assert (list(State(tmp_path, 0).nodes), State(tmp_path, 0).uml_node) == (["n1", "n2"], "n3")
    State(tmp_path, 0).want_nodes(3)
    again = State(tmp_path, 0)
    assert (list(again.nodes), again.uml_node) == (["n1", "n2", "n3"], "n4")
    assert len(set(again.addresses.values())) == 4


def test_a_folder_that_has_its_nodes_keeps_them(tmp_path: Path) -> None:
    state = State(tmp_path, 0)
    state.want_nodes(3)
    state.credentials.touch()
    state.want_nodes(3)
    with pytest.raises(Failed, match="has 3 nodes"):
        state.want_nodes(2)


@pytest.mark.parametrize("count", [1, 9])
def test_a_lab_of_a_size_that_cannot_be_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(Failed, match="are possible"):
        State(tmp_path, 0).want_nodes(count)
