"""Affinity groups: VMs that are kept apart or together, strictly or as far as it goes."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster import affinity
from cluster.models import AffinityGroup, Node, Vm
from cluster.operations import node_moves, start
from cluster.permissions import Actor
from cluster.saga.steps import Lost
from nodes.contract.sizes import GIB, MIB
from tests.panel.client import Api, vm_like
from tests.panel.engine.scenarios import Scene, second_node
from tests.panel.engine.world import Executor
from tests.people import Person

People = Callable[[str], Api]
BLANK: dict[str, Any] = {"vcpus": 1, "memory_bytes": 128 * MIB, "disks": [], "nics": []}


@pytest.fixture
def there(scene: Scene) -> Node:
    return second_node(scene)[0]


def group(policy: str, *vms: Vm, hard: bool = True, **more: Any) -> AffinityGroup:
    made = AffinityGroup.objects.create(**{"name": "web", "tenant": vms[0].tenant} | more, policy=policy, hard=hard)
    made.vms.set(vms)
    return made


def body(name: str, of: AffinityGroup) -> dict[str, Any]:
    return BLANK | {"name": name, "tenant": of.tenant_id, "affinity_groups": [of.pk]}


def where(name: str) -> str:
    return Vm.objects.get(name=name).node.name


def said(answer: Any) -> list[str]:
    return [reason["code"] for reason in answer.json()["refusals"]]


# --- groups


def test_a_tenant_makes_changes_and_removes_its_own_groups(api: People, scene: Scene) -> None:
    tenant = api("tenant_administrator")
    made = tenant.post("affinity-groups/", {"name": "web", "policy": "apart"})
    assert made.status_code == 201
    row = made.json()
    assert (row["hard"], row["vms"], row["tenant"]) == (False, [], scene.running.tenant_id)
    assert tenant.post("affinity-groups/", {"name": "web", "policy": "together"}).json()["code"] == (
        "affinity_group_name_taken"
    )
    assert tenant.post("affinity-groups/", {"name": "db", "policy": "near"}).status_code == 400
    assert tenant.patch(f"affinity-groups/{row['id']}/", {"hard": True}).json()["hard"]
    joined = tenant.patch(f"vms/{scene.running.pk}/", {"affinity_groups": [row["id"]]}).json()
    assert joined["affinity_groups"] == [row["id"]]
    assert tenant.get(f"affinity-groups/?vm={scene.running.pk}").json()["results"][0]["vms"] == [scene.running.pk]
    assert tenant.get(f"vms/?affinity_group={row['id']}").json()["results"][0]["id"] == scene.running.pk
    assert api("stranger").get(f"affinity-groups/{row['id']}/").status_code == 404
    assert api("owner").patch(f"affinity-groups/{row['id']}/", {"hard": False}).status_code == 403
    assert tenant.delete(f"affinity-groups/{row['id']}/").status_code == 204
    assert Vm.objects.filter(pk=scene.running.pk).exists()


def test_a_group_of_another_tenant_is_not_known(api: People, scene: Scene, people: dict[str, Person]) -> None:
    other = people["stranger"].actor.tenant
    theirs = AffinityGroup.objects.create(name="theirs", tenant=other, policy="apart")
    for asked in (
        api("tenant_administrator").post("affinity-groups/", {"name": "x", "policy": "apart", "tenant": "umbra"}),
        api("owner").post("vms/", BLANK | {"name": "new", "affinity_groups": [theirs.pk]}),
        api("administrator").post("vms/", body("new", theirs) | {"tenant": scene.running.tenant_id}),
        api("administrator").patch(f"vms/{scene.running.pk}/", {"affinity_groups": [theirs.pk]}),
    ):
        assert said(asked)[0] in ("tenant_unknown", "affinity_group_unknown")


def test_a_vm_does_not_join_a_strict_group_that_it_would_break(api: People, scene: Scene) -> None:
    apart = group("apart", scene.running)
    answer = api("administrator").patch(f"vms/{scene.stopped.pk}/", {"affinity_groups": [apart.pk]})
    assert (answer.status_code, said(answer)) == (409, ["affinity_broken"])
    assert answer.json()["detail"] == "vm-running and vm-stopped are not where the group web wants its VMs (apart)"
    assert not scene.stopped.affinity_groups.exists()


def test_a_group_does_not_become_strict_while_it_is_broken(api: People, scene: Scene, there: Node) -> None:
    apart = group("apart", scene.running, scene.stopped, hard=False)
    strict = f"affinity-groups/{apart.pk}/"
    assert said(api("administrator").patch(strict, {"hard": True})) == ["affinity_broken"]
    Vm.objects.filter(pk=scene.stopped.pk).update(node=there)
    assert api("administrator").patch(strict, {"hard": True}).status_code == 200


# --- creation


def test_vms_that_are_kept_apart_are_made_on_different_nodes_until_there_is_none_left(
    api: People, scene: Scene, there: Node
) -> None:
    apart = group("apart", scene.running)
    placed = api("administrator").post("vms/?dry_run=true", body("web-2", apart)).json()["placement"]
    assert placed["name"] == "n2"
    assert placed["others"][0]["reasons"][0]["cause"] == (
        "VM vm-running of group web is on n1, and the group keeps its VMs apart"
    )
    assert api("administrator").post("vms/", body("web-2", apart)).status_code == 202
    assert where("web-2") == "n2"
    answer = api("administrator").post("vms/", body("web-3", apart))
    assert (answer.status_code, said(answer)) == (422, ["no_node", "affinity_apart", "affinity_apart"])


def test_a_tenant_hears_which_group_is_in_the_way_and_no_place(api: People, scene: Scene) -> None:
    apart = group("apart", scene.running)
    answer = api("owner").post("vms/", BLANK | {"name": "web-2", "affinity_groups": [apart.pk]})
    assert said(answer) == ["no_node", "affinity_in_the_way"]
    assert "n1" not in answer.content.decode()


def test_vms_that_are_kept_together_are_made_where_the_others_are(api: People, scene: Scene, there: Node) -> None:
    Node.objects.filter(pk=scene.node.pk).update(memory_allocated_bytes=15 * GIB)
    together = group("together", scene.running)
    assert api("administrator").post("vms/", body("db", together)).status_code == 202
    assert where("db") == "n1"
    answer = api("administrator").post("vms/", body("db-2", together) | {"node": there.pk})
    assert said(answer) == ["affinity_together"]


@pytest.mark.parametrize(("policy", "node"), [("apart", "n2"), ("together", "n1")])
def test_what_a_group_would_rather_have_outweighs_some_free_memory(
    policy: str, node: str, api: People, scene: Scene, there: Node
) -> None:
    fuller = scene.node if policy == "together" else there
    Node.objects.filter(pk=fuller.pk).update(memory_allocated_bytes=4 * GIB)
    wish = group(policy, scene.running, hard=False)
    placed = api("administrator").post("vms/?dry_run=true", body("web-2", wish)).json()["placement"]
    assert placed["name"] == node
    assert [reason["code"] for reason in placed["others"][0]["reasons"]] == ["fewer_points", f"affinity_{policy}_soft"]


def test_a_wish_that_cannot_be_met_hinders_nothing(api: People, scene: Scene) -> None:
    wish = group("apart", scene.running, hard=False)
    placed = api("administrator").post("vms/?dry_run=true", body("web-2", wish)).json()
    assert placed["refusals"] == []
    assert [reason["code"] for reason in placed["placement"]["reasons"]] == ["only_node", "affinity_apart_soft"]


def test_what_was_planned_is_asked_again_when_it_is_reserved(scene: Scene, there: Node) -> None:
    apart = group("apart", scene.running)
    with pytest.raises(Lost):
        affinity.hold([apart.pk], scene.node.pk)
    affinity.hold_for(scene.running, scene.node.pk)
    affinity.hold([apart.pk], there.pk)
    with pytest.raises(Lost):
        affinity.hold([apart.pk, "removed meanwhile"], there.pk)


# --- moves


def test_a_vm_does_not_move_to_where_another_of_its_group_is_or_is_about_to_be(
    api: People, scene: Scene, there: Node
) -> None:
    third = vm_like(scene.stopped, name="third")
    Vm.objects.filter(pk=third.pk).update(node=there)
    Vm.objects.filter(pk=scene.stopped.pk).update(node=there)
    group("apart", scene.running, third)
    targets = api("administrator").post(f"vms/{scene.running.pk}/migrate/?dry_run=true", {}).json()["targets"]
    assert [reason["code"] for reason in targets[0]["reasons"]] == ["affinity_apart"]
    Vm.objects.filter(pk=third.pk).update(node=scene.node, moving_to=there)
    targets = api("administrator").post(f"vms/{scene.running.pk}/migrate/?dry_run=true", {}).json()["targets"]
    assert [reason["code"] for reason in targets[0]["reasons"]] == ["affinity_apart"]


def test_a_move_reserves_its_place_in_the_group_and_gives_it_back(scene: Scene, there: Node) -> None:
    start(scene.actor, "vm.migrate", {}, scene.running.pk)
    assert Vm.objects.get(pk=scene.running.pk).moving_to == there
    job = start(scene.actor, "vm.migrate", {}, scene.stopped.pk).job
    fails = Executor(world=scene.world, fault=lambda n, sent: "refused" if sent.verb == "domain.expect" else None)
    assert fails.run(job).state == "failed"
    assert Vm.objects.get(pk=scene.stopped.pk).moving_to is None


def test_one_of_a_group_that_is_kept_together_does_not_leave_the_others(api: People, scene: Scene, there: Node) -> None:
    group("together", scene.running, scene.stopped)
    answer = api("administrator").post(f"vms/{scene.running.pk}/migrate/", {})
    assert said(answer) == ["affinity_together"]


def test_a_node_is_emptied_with_its_groups_kept(scene: Scene, there: Node) -> None:
    """Who is kept together goes together, and comes back together; who is kept apart finds different nodes."""
    third, fourth = _one_more(there, "c", "n3"), _one_more(there, "d", "n4")
    vms = [scene.running, scene.stopped, *(vm_like(scene.stopped, name=name) for name in ("web-1", "web-2"))]
    group("together", *vms[:2], name="app")
    group("apart", *vms[2:], hard=False)
    rows = node_moves.intend(Vm.objects.filter(node=scene.node).select_related("node").order_by("name"))
    goes = {row.vm.name: row.best.node.name for row in rows if row.best}
    assert goes["vm-running"] == goes["vm-stopped"]
    assert goes["web-1"] != goes["web-2"]
    assert set(goes.values()) <= {there.name, third.name, fourth.name}


def test_a_group_that_is_kept_together_is_evacuated_and_put_back(scene: Scene, there: Node) -> None:
    group("together", scene.running, scene.stopped)
    executor = Executor(world=scene.world)
    job = executor.run(start(scene.actor, "node.evacuate", {}, scene.node.pk).job)
    assert job.state == "succeeded"
    assert {where("vm-running"), where("vm-stopped")} == {"n2"}
    job = executor.run(start(scene.actor, "node.put_back", {}, scene.node.pk).job)
    assert job.state == "succeeded"
    assert {where("vm-running"), where("vm-stopped")} == {"n1"}


def _one_more(like: Node, letter: str, name: str) -> Node:
    node = Node.objects.get(pk=like.pk)
    pools = list(node.pools.all())
    number = name.removeprefix("n")
    node.pk, node.name, node.address, node.redis_password_sha256 = letter * 13, name, f"10.99.0.1{number}", letter * 64
    node.save(force_insert=True)
    for pool in pools:
        pool.places.create(node=node)
    return node


def test_a_self_service_user_sees_of_a_group_only_the_own_vms(
    api: People, scene: Scene, people: dict[str, Person]
) -> None:
    both = group("apart", scene.running, scene.stopped, hard=False)
    member: Actor = people["member"].actor
    Vm.objects.filter(pk=scene.stopped.pk).update(owner=member.user)
    assert api("owner").get(f"affinity-groups/{both.pk}/").json()["vms"] == [scene.running.pk]
