"""Groups of nodes: who makes them, what is in them, and that a VM which is bound to one stays in it."""

from collections.abc import Callable

import pytest

from cluster.models import AuditEvent, Backup, Node, NodeGroup, Vm
from nodes.contract.sizes import MIB
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene, backup_of, moving, second_node

People = Callable[[str], Api]
BLANK = {"name": "shop", "vcpus": 1, "memory_bytes": 128 * MIB, "disks": [], "nics": []}


@pytest.fixture
def ssd(scene: Scene) -> NodeGroup:
    return NodeGroup.objects.create(name="ssd")


@pytest.fixture
def there(scene: Scene, ssd: NodeGroup) -> Node:
    """The second of two nodes, alone in the group."""
    node, _pools = second_node(scene)
    Node.objects.filter(pk=node.pk).update(group=ssd)
    return node


def test_a_group_is_made_renamed_and_removed_when_nothing_is_in_it(api: People, scene: Scene) -> None:
    fabric = api("fabric")
    made = fabric.post("node-groups/", {"name": "ssd", "title": "Быстрые"})
    assert (made.status_code, made.json()["nodes"]) == (201, [])
    pk = made.json()["id"]
    assert fabric.post("node-groups/", {"name": "ssd"}).json()["code"] == "node_group_name_taken"
    assert fabric.post("node-groups/", {"name": "SSD!"}).status_code == 400
    assert fabric.patch(f"node-groups/{pk}/", {"name": "nvme"}).json()["name"] == "nvme"
    assert fabric.patch(f"nodes/{scene.node.pk}/", {"group": pk}).json()["group"] == pk
    assert fabric.get(f"node-groups/{pk}/").json()["nodes"] == [scene.node.pk]
    assert fabric.get(f"nodes/?group={pk}").json()["results"][0]["id"] == scene.node.pk
    answer = fabric.delete(f"node-groups/{pk}/")
    assert (answer.status_code, answer.json()["code"]) == (409, "node_group_in_use")
    assert fabric.patch(f"nodes/{scene.node.pk}/", {"group": None}).json()["group"] is None
    assert fabric.delete(f"node-groups/{pk}/").status_code == 204
    noted = AuditEvent.objects.filter(action__startswith="node_group.").values_list("action", flat=True)
    assert list(noted) == ["node_group.add", "node_group.edit", "node_group.remove"]


def test_a_group_that_is_none_is_refused_wherever_it_is_named(api: People, scene: Scene) -> None:
    administrator = api("administrator")
    for answer in (
        administrator.patch(f"nodes/{scene.node.pk}/", {"group": "nobody"}),
        administrator.patch(f"vms/{scene.running.pk}/", {"group": "nobody"}),
        administrator.post("vms/", BLANK | {"group": "nobody"}),
    ):
        assert (answer.status_code, answer.json()["refusals"][0]["code"]) == (422, "node_group_unknown")


def test_a_vm_is_made_in_its_group_and_every_other_node_says_why_not(
    api: People, ssd: NodeGroup, there: Node, scene: Scene
) -> None:
    body = BLANK | {"group": ssd.pk}
    placed = api("administrator").post("vms/?dry_run=true", body).json()["placement"]
    assert placed["node"] == there.pk
    [other] = placed["others"]
    assert (other["name"], [reason["code"] for reason in other["reasons"]]) == ("n1", ["outside_group"])
    made = api("administrator").post("vms/", body).json()["vm"]["id"]
    assert api("administrator").get(f"vms/{made}/").json()["group"] == ssd.pk
    refused = api("administrator").post("vms/", body | {"name": "other", "node": scene.node.pk})
    assert [reason["code"] for reason in refused.json()["refusals"]] == ["outside_group"]


def test_a_bound_vm_moves_only_within_its_group(api: People, ssd: NodeGroup, scene: Scene) -> None:
    pk, _params = moving(scene)
    Vm.objects.filter(pk=pk).update(node_group=ssd)
    move = f"vms/{pk}/migrate/?dry_run=true"
    [target] = [row for row in api("administrator").post(move, {}).json()["targets"] if row["name"] == "n1"]
    assert [reason["code"] for reason in target["reasons"]] == ["outside_group"]
    assert api("administrator").patch(f"vms/{pk}/", {"group": None}).json()["group"] is None
    assert api("administrator").post(move, {}).json()["refusals"] == []


def test_a_tenant_neither_sees_nor_names_groups_of_nodes_and_unbinds_no_vm(
    api: People, ssd: NodeGroup, scene: Scene
) -> None:
    Vm.objects.filter(pk=scene.stopped.pk).update(node_group=ssd)
    tenant = api("tenant_administrator")
    assert tenant.get("node-groups/").status_code == 403
    assert tenant.get(f"node-groups/{ssd.pk}/").status_code == 404
    assert tenant.get(f"vms/{scene.stopped.pk}/").json()["group"] is None
    assert tenant.patch(f"vms/{scene.stopped.pk}/", {"group": None}).status_code == 403
    assert tenant.post("vms/", BLANK | {"group": ssd.pk}).json()["refusals"][0]["code"] == "node_group_unknown"
    assert Vm.objects.get(pk=scene.stopped.pk).node_group == ssd


def test_what_is_made_after_a_bound_vm_is_bound_too(api: People, ssd: NodeGroup, scene: Scene) -> None:
    Node.objects.filter(pk=scene.node.pk).update(group=ssd)
    Vm.objects.filter(pk=scene.stopped.pk).update(node_group=ssd)
    tenant = api("tenant_administrator")
    assert tenant.post(f"vms/{scene.stopped.pk}/clone/", {"name": "twin"}).status_code == 202
    backup = backup_of(scene, scene.stopped)
    Backup.objects.filter(pk=backup).update(settings=Backup.objects.get(pk=backup).settings | {"group": ssd.pk})
    assert tenant.post(f"backups/{backup}/restore/", {"name": "again"}).status_code == 202
    assert set(Vm.objects.filter(node_group=ssd).values_list("name", flat=True)) == {"vm-stopped", "twin", "again"}


def test_the_nodes_of_bound_vms_are_emptied_into_their_group(ssd: NodeGroup, scene: Scene, api: People) -> None:
    there, _pools = second_node(scene)
    Vm.objects.filter(pk=scene.stopped.pk).update(node_group=ssd)
    asked = f"nodes/{scene.node.pk}/evacuate/?dry_run=true"
    rows = {row["name"]: row for row in api("administrator").post(asked, {}).json()["moves"]}
    assert [reason["code"] for reason in rows["vm-stopped"]["reasons"]] == ["outside_group"]
    Node.objects.filter(pk=there.pk).update(group=ssd)
    rows = {row["name"]: row for row in api("administrator").post(asked, {}).json()["moves"]}
    assert rows["vm-stopped"]["node"] == there.pk
