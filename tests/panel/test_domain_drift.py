"""What nodes show of domains beside what the panel has: noted, said, and moved nowhere but by law 6."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster import domain_drift, reconcile
from cluster.models import AuditEvent, Disk, Job, Lock, Nic, Node, Pool, PoolOnNode, Step, Vm
from cluster.operations import start
from nodes.contract.specs import DomainFacts, Outline
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene, changed_by_hand, claimed, made_by_hand, stranger
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]
MIB = 1 << 20
NOBODY = "99999999-2222-3333-4444-555555555555"


def tell(node: Node, *domains: DomainFacts, counter: int = 100, complete: bool = False) -> dict[str, int]:
    return reconcile.observe([reconcile.Observation(node.pk, domains, counter, complete=complete)])


def shown(vm: Vm, state: str = "", **changes: Any) -> DomainFacts:
    """Its domain with the definition that the panel made, but for ``changes``."""
    states = {"stopped": "shutoff", "error": "shutoff"}
    outline = domain_drift.expected([vm.pk])[vm.pk].model_copy(update=changes)
    return DomainFacts(
        uuid=vm.uuid,
        name=vm.domain_name,
        state=state or states.get(vm.state, vm.state),  # type: ignore[arg-type]
        vm=vm.pk,
        outline=outline,
    )


def gone(vm: Vm) -> DomainFacts:
    return DomainFacts(uuid=vm.uuid, name=vm.domain_name, state="absent", vm=vm.pk)


def fresh(vm: Vm) -> Vm:
    return Vm.objects.get(pk=vm.pk)


def lock(vm: Vm, *, held: bool) -> Lock:
    job = Job.objects.create(operation="vm.start", subject=f"vm:{vm.pk}", state="running" if held else "waiting")
    return Lock.objects.create(name=f"vm:{vm.pk}", job=job, held=held, exclusive=True)


def sent_to(scene: Scene) -> list[tuple[Any, str]]:
    """Messages with the node of each."""
    nodes = dict(Step.objects.values_list("pk", "node"))
    return [(message, nodes[message.step]) for message in scene.world.messages]


@pytest.fixture
def other(scene: Scene) -> Node:
    """A node with the same storage."""
    node = Node.objects.create(
        name="n2",
        address="10.99.0.12",
        state="online",
        redis_password_sha256="1" * 64,
        verbs=scene.node.verbs,
        facts=scene.node.facts,
        cpus=8,
        memory_bytes=16 << 30,
    )
    PoolOnNode.objects.create(pool=scene.pool, node=node)
    return node


# --- definitions ------------------------------------------------------------------------------------------


def test_a_changed_definition_is_noted_field_by_field_and_its_return_too(scene: Scene, api: People) -> None:
    vm = scene.running
    tell(scene.node, shown(vm, vcpus=4, vcpus_current=4))
    row = api("administrator").get(f"vms/{vm.pk}/").json()
    assert row["drift"] == [{"field": "vcpus", "panel": 1, "seen": 4, "adoptable": True}]
    assert (row["vcpus"], row["version"]) == (1, vm.version + 1)
    assert scene.world.messages == []
    assert api("owner").get(f"vms/{vm.pk}/").json()["drift"] == []
    tell(scene.node, shown(vm, vcpus=4, vcpus_current=4))
    assert fresh(vm).version == vm.version + 1
    tell(scene.node, shown(vm))
    assert fresh(vm).drift == {}


def test_a_report_without_a_definition_says_nothing_of_it(scene: Scene) -> None:
    vm = scene.running
    tell(scene.node, shown(vm, vcpus=4))
    tell(scene.node, shown(vm).model_copy(update={"outline": None}))
    assert set(fresh(vm).drift) == {"vcpus"}


def test_what_was_seen_during_a_job_or_before_the_last_reply_changes_nothing(scene: Scene) -> None:
    vm = scene.running
    row = lock(vm, held=True)
    assert tell(scene.node, shown(vm, vcpus=4)) == {vm.pk: 100}
    assert fresh(vm).drift == {}
    row.delete()
    Vm.objects.filter(pk=vm.pk).update(observed_counter=101)
    tell(scene.node, shown(vm, vcpus=4))
    assert fresh(vm).drift == {}
    tell(scene.node, shown(vm, vcpus=4), counter=101)
    assert fresh(vm).drift != {}


def test_a_disk_that_the_guest_shall_not_have_again_is_not_missed(scene: Scene) -> None:
    vm = scene.running
    Disk.objects.filter(vm=vm, position=1).update(pending="detach")
    tell(scene.node, shown(vm))
    assert fresh(vm).drift == {}


def test_one_that_is_gone_says_so_and_comes_back_by_itself(scene: Scene, api: People) -> None:
    for vm in (scene.running, scene.stopped):
        tell(scene.node, gone(vm))
        row = api("administrator").get(f"vms/{vm.pk}/").json()
        assert (row["state"], row["state_reason"]["code"]) == ("error", "state_gone")
        assert api("administrator").post(f"vms/{vm.pk}/start/").json()["code"] == "state_gone"
        tell(scene.node, shown(vm, "shutoff"))
        assert (fresh(vm).state, fresh(vm).state_reason) == ("stopped", "")
    tell(scene.node, complete=True)
    assert set(Vm.objects.values_list("state", "state_reason")) == {("error", "gone")}


# --- writing it again -------------------------------------------------------------------------------------


def run(scene: Scene, code: str, vm: Vm, **params: Any) -> Job:
    return Executor(world=scene.world).run(start(scene.actor, code, params, vm.pk).job)


def test_what_is_gone_is_defined_again_and_can_be_started(scene: Scene) -> None:
    vm, before = scene.running, dict(scene.world.objects)
    for name in [name for name in before if vm.pk in name[1]]:
        del scene.world.objects[name]
    tell(scene.node, gone(vm))
    assert run(scene, "vm.reapply", vm).state == "succeeded"
    assert (fresh(vm).state, fresh(vm).state_reason) == ("stopped", "")
    assert run(scene, "vm.start", vm).state == "succeeded"
    assert scene.world.objects[scene.node.pk, "domain:" + vm.pk] == "running"
    assert {key for key in before if key[1].startswith("disk:")} <= scene.world.objects.keys()


def test_what_is_gone_is_not_defined_again_while_a_silent_node_could_run_it(
    scene: Scene, other: Node, api: People
) -> None:
    vm = scene.running
    tell(scene.node, gone(vm))
    Node.objects.filter(pk=other.pk).update(state="offline")
    answer = api("administrator").post(f"vms/{vm.pk}/reapply/")
    assert (answer.status_code, answer.json()["code"]) == (409, "could_be_elsewhere")
    assert "n2" in answer.json()["detail"]


def test_a_guest_that_runs_goes_on_and_its_drift_is_over(scene: Scene) -> None:
    vm = Vm.objects.get(pk=changed_by_hand(scene, scene.running, vcpus=4, persistent=False))
    job = run(scene, "vm.reapply", vm)
    assert job.state == "succeeded"
    assert (fresh(vm).state, fresh(vm).drift) == ("running", {})
    assert [message.verb for message in scene.world.messages] == ["nic.plug", "domain.define"]


def size(vcpus: int, memory_mib: int) -> dict[str, int]:
    memory_bytes = memory_mib * MIB
    return {
        "vcpus": vcpus,
        "vcpus_current": vcpus,
        "memory_bytes": memory_bytes,
        "memory_current_bytes": memory_bytes,
    }


# --- taking over ------------------------------------------------------------------------------------------


def test_all_that_the_panel_can_hold_is_taken_over_at_once(scene: Scene, api: People) -> None:
    vm, nic, disk = scene.running, scene.running.nics.get(), scene.running.disks.all()[0]
    here = domain_drift.expected([vm.pk])[vm.pk]
    disks = tuple(d.model_copy(update={"bus": "sata"}) if d.id == disk.pk else d for d in here.disks)
    nics = tuple(one.model_copy(update={"model": "e1000"}) for one in here.nics)
    changed_by_hand(
        scene,
        vm,
        vcpus=2,
        vcpus_current=2,
        memory_bytes=256 * MIB,
        memory_current_bytes=256 * MIB,
        disks=disks,
        nics=nics,
    )
    allocated = Node.objects.get(pk=scene.node.pk).memory_allocated_bytes
    assert run(scene, "vm.adopt", vm).state == "succeeded"
    after = fresh(vm)
    assert (after.vcpus, after.memory_bytes, after.drift) == (2, 256 * MIB, {})
    assert Nic.objects.get(pk=nic.pk).model == "e1000"
    assert Disk.objects.get(pk=disk.pk).bus == "sata"
    assert Node.objects.get(pk=scene.node.pk).memory_allocated_bytes == allocated + 128 * MIB
    assert [message.verb for message in scene.world.messages] == ["domain.read"]


def test_one_field_alone_is_taken_over_and_the_others_are_said_still(scene: Scene) -> None:
    vm = scene.running
    changed_by_hand(
        scene, vm, vcpus=2, vcpus_current=2, autostart=True, memory_bytes=64 * MIB, memory_current_bytes=64 * MIB
    )
    assert run(scene, "vm.adopt", vm, field="memory_bytes").state == "succeeded"
    assert fresh(vm).memory_bytes == 64 * MIB
    assert set(fresh(vm).drift) == {"vcpus", "autostart"}


@pytest.mark.parametrize(
    ("changes", "field", "code", "status"),
    [
        ({"autostart": True}, "autostart", "drift_not_held", 409),
        ({"disks": ()}, "disk/", "drift_missing", 409),
        ({"nics": ()}, "nic/52:54:00:00:00:01", "drift_missing", 409),
        ({"vcpus": 9, "vcpus_current": 9}, "vcpus", "no_cpus", 507),
        ({"memory_bytes": 1 << 40, "memory_current_bytes": 1 << 40}, "memory_bytes", "no_memory", 507),
        ({"memory_bytes": 1 << 20, "memory_current_bytes": 1 << 20}, "memory_bytes", "no_memory", 507),
        ({"vcpus": 2}, "memory_bytes", "vm_no_drift", 409),
    ],
    ids=str,
)
def test_what_cannot_be_taken_over_is_refused_with_the_reason(
    scene: Scene, api: People, changes: dict[str, Any], field: str, code: str, status: int
) -> None:
    vm = scene.running
    changed_by_hand(scene, vm, **changes)
    field = field if field != "disk/" else next(iter(fresh(vm).drift))
    answer = api("administrator").post(f"vms/{vm.pk}/adopt/", {"field": field})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert fresh(vm).vcpus == 1


def test_what_was_put_back_meanwhile_is_not_taken_over(scene: Scene) -> None:
    vm = Vm.objects.get(pk=changed_by_hand(scene, scene.running, vcpus=2, vcpus_current=2))
    scene.world.outlines[scene.node.pk, "domain:" + vm.pk] = domain_drift.expected([vm.pk])[vm.pk].model_dump()
    assert run(scene, "vm.adopt", vm).state == "succeeded"
    assert (fresh(vm).vcpus, fresh(vm).drift) == (1, {})


def test_without_drift_there_is_nothing_to_take_over(scene: Scene, api: People) -> None:
    answer = api("administrator").post(f"vms/{scene.running.pk}/adopt/")
    assert (answer.status_code, answer.json()["code"]) == (409, "vm_no_drift")


# --- claims, and moves by hand ----------------------------------------------------------------------------


def test_one_that_two_nodes_show_is_a_claim_and_nothing_moves_or_starts(scene: Scene, other: Node, api: People) -> None:
    vm = scene.stopped
    tell(other, shown(vm, "running"))
    tell(scene.node, shown(vm), complete=True)
    row = api("administrator").get(f"vms/{vm.pk}/").json()
    assert (row["node"], row["state"]) == (scene.node.pk, "stopped")
    assert row["claims"] == [{"node": other.pk, "state": "running"}]
    assert api("owner").get(f"vms/{vm.pk}/").json()["claims"] == []
    for operation, params in (("start", {}), ("reapply", {}), ("migrate", {}), ("delete", {"disks": True})):
        answer = api("administrator").post(f"vms/{vm.pk}/{operation}/", params)
        assert (answer.status_code, answer.json()["code"]) == (409, "vm_claimed"), operation
        assert "n2" in answer.json()["detail"]


def test_the_claim_of_a_node_that_was_removed_hinders_nothing(scene: Scene, other: Node) -> None:
    tell(other, shown(scene.stopped))
    Node.objects.filter(pk=other.pk).update(redis_password_sha256="")
    assert run(scene, "vm.start", fresh(scene.stopped)).state == "succeeded"


@pytest.mark.parametrize(("here", "there"), [("shutoff", "running"), ("shutoff", "shutoff"), (None, "running")])
def test_an_administrator_says_that_a_claim_is_right_and_the_vm_belongs_there(
    scene: Scene, here: str | None, there: str
) -> None:
    pk, params = claimed(scene, there=there)
    vm, old, new = scene.stopped, scene.node, Node.objects.get(name="n2")
    if here is None:
        del scene.world.objects[old.pk, "domain:" + pk]
    job = Executor(world=scene.world).run(start(scene.actor, "vm.adopt_claim", params, pk).job)
    assert job.state == "succeeded", job.error
    after = fresh(vm)
    state = {"running": "running", "shutoff": "stopped"}[there]
    assert (after.node_id, after.state, after.claims, after.moved_from, after.drift) == (new.pk, state, None, None, {})
    # Its own node is asked first, and only then the other one; and nothing of it is left where it was.
    asked = [(message.verb, node) for message, node in sent_to(scene)]
    assert asked[:2] == [("domain.look", old.pk), ("domain.read", new.pk)]
    assert (old.pk, "domain:" + pk) not in scene.world.objects
    assert scene.world.objects[new.pk, "domain:" + pk] == there
    rooms = dict(Node.objects.values_list("name", "memory_allocated_bytes"))
    assert rooms == {"n1": scene.running.memory_bytes, "n2": vm.memory_bytes}


@pytest.mark.parametrize(
    ("here", "there", "code"),
    [
        ("running", "running", "claim_both_run"),
        ("paused", "running", "claim_both_run"),
        ("running", "shutoff", "claim_unclear"),
    ],
)
def test_a_guest_that_its_own_node_runs_is_never_given_to_another_one(
    scene: Scene, here: str, there: str, code: str
) -> None:
    pk, params = claimed(scene, here, there)
    before = scene.fingerprint()
    job = Executor(world=scene.world).run(start(scene.actor, "vm.adopt_claim", params, pk).job)
    assert (job.state, (job.error or {})["code"]) == ("failed", code)
    assert scene.fingerprint() == before
    assert fresh(scene.stopped).claims == {params["node"]: there}


def test_a_domain_of_that_name_with_other_disks_is_another_guest(scene: Scene) -> None:
    pk, params = claimed(scene)
    outline = scene.world.outlines[params["node"], "domain:" + pk]
    outline["disks"][0]["place"] = "/srv/copies/" + outline["disks"][0]["id"] + ".qcow2"
    before = scene.fingerprint()
    job = Executor(world=scene.world).run(start(scene.actor, "vm.adopt_claim", params, pk).job)
    assert (job.state, (job.error or {})["code"]) == ("failed", "claim_other_disks")
    assert scene.fingerprint() == before


def test_silence_other_storage_or_several_claims_are_refused_before_anybody_is_asked(scene: Scene, api: People) -> None:
    pk, params = claimed(scene)
    there = Node.objects.get(name="n2")

    def codes(name: str = "administrator") -> list[str]:
        answer = api(name).post(f"vms/{pk}/adopt_claim/?dry_run=true", params)
        return [one["code"] for one in answer.json()["refusals"]]

    assert codes() == []
    for node in (scene.node, there):
        Node.objects.filter(pk=node.pk).update(state="offline")
        assert codes() == ["node_offline"]
        Node.objects.filter(pk=node.pk).update(state="online")
    PoolOnNode.objects.filter(pool__name="both", node=there).delete()
    assert codes() == ["claim_other_storage"]
    third = Node.objects.create(name="n3", address="10.99.0.13", state="online", redis_password_sha256="3" * 64)
    Vm.objects.filter(pk=pk).update(claims={there.pk: "running", third.pk: "shutoff"})
    assert codes() == ["vm_claimed_often"]
    Vm.objects.filter(pk=pk).update(claims=None)
    assert codes() == ["vm_no_claim"]
    assert scene.world.messages == []


@pytest.mark.parametrize("complete", [True, False])
def test_a_claim_ends_when_its_node_does_not_show_it_any_more(scene: Scene, other: Node, complete: bool) -> None:
    vm = scene.stopped
    tell(other, shown(vm))
    assert fresh(vm).claims == {other.pk: "shutoff"}
    tell(other, *([] if complete else [gone(vm)]), complete=complete)
    assert fresh(vm).claims is None


@pytest.mark.parametrize("first", ["source", "target", "both"])
def test_one_that_was_moved_by_hand_is_followed(scene: Scene, other: Node, first: str) -> None:
    vm, before = scene.running, Node.objects.get(pk=scene.node.pk).memory_allocated_bytes
    words = [(scene.node, gone(vm)), (other, shown(vm, "running"))]
    if first == "both":
        reconcile.observe(reconcile.Observation(node.pk, [said], 100, complete=False) for node, said in words)
    else:
        for node, said in words if first == "source" else reversed(words):
            tell(node, said)
    after = fresh(vm)
    assert (after.node_id, after.state, after.state_reason, after.claims) == (other.pk, "running", "", None)
    assert (after.moved_from_id, after.started_on_id, after.observed_counter) == (scene.node.pk, scene.node.pk, 0)
    allocated = [Node.objects.get(pk=node.pk).memory_allocated_bytes for node in (scene.node, other)]
    assert allocated == [before - 128 * MIB, 128 * MIB]
    event = AuditEvent.objects.get(action="vm.moved_by_hand")
    assert (event.actor, event.subject, event.detail) == (None, f"vm:{vm.pk}", {"source": "n1", "target": "n2"})
    assert scene.world.messages == []


def test_until_its_old_node_is_cleared_it_is_not_moved_on_or_deleted(scene: Scene, other: Node, api: People) -> None:
    Vm.objects.filter(pk=scene.running.pk).update(moved_from=other)
    for operation, params in (("migrate", {}), ("delete", {"disks": True})):
        answer = api("administrator").post(f"vms/{scene.running.pk}/{operation}/", params)
        assert (answer.status_code, answer.json()["code"]) == (409, "vm_moved_by_hand")


def test_after_it_all_that_belongs_to_it_is_made_to_stand_on_its_new_node(scene: Scene, other: Node) -> None:
    vm, nic = scene.running, scene.running.nics.get()
    for at, name in [key for key in scene.world.objects if vm.pk in key[1]]:
        scene.world.objects[other.pk, name] = scene.world.objects.pop((at, name))
    reconcile.observe(
        reconcile.Observation(node.pk, [said], 100, complete=False)
        for node, said in ((scene.node, gone(vm)), (other, shown(vm, "running")))
    )
    for disk in vm.disks.all():
        scene.world.objects[other.pk, "disk:" + disk.pk] = "disk"
    assert run(scene, "vm.reapply", fresh(vm)).state == "succeeded"
    sent = [(message.verb, scene.node.pk in str(message)) for message in scene.world.messages]
    assert [verb for verb, _ in sent] == ["nic.plug", "domain.adopt", "domain.leave", "nic.unplug"]
    assert (other.pk, "nic:" + nic.pk) in scene.world.objects
    assert (scene.node.pk, "nic:" + nic.pk) not in scene.world.objects
    assert scene.world.objects[other.pk, "domain:" + vm.pk] == "running"
    assert fresh(vm).moved_from_id is None


def _has_other_storage(scene: Scene, other: Node) -> None:
    PoolOnNode.objects.filter(node=other).delete()


def _is_being_made(scene: Scene, other: Node) -> None:
    Vm.objects.update(state="creating")


def _was_never_there(scene: Scene, other: Node) -> None:
    Vm.objects.update(state="error")


def _has_a_job(scene: Scene, other: Node) -> None:
    lock(scene.running, held=False)


def _is_offline(scene: Scene, other: Node) -> None:
    Node.objects.filter(pk=scene.node.pk).update(state="offline")


def _is_on_a_third_node_too(scene: Scene, other: Node) -> None:
    third = Node.objects.create(name="n3", address="10.99.0.13", state="online", redis_password_sha256="3" * 64)
    PoolOnNode.objects.create(pool=scene.pool, node=third)
    tell(third, shown(scene.running, "running"))


@pytest.mark.parametrize(
    "doubt",
    [_has_other_storage, _is_being_made, _was_never_there, _has_a_job, _is_offline, _is_on_a_third_node_too],
    ids=lambda doubt: doubt.__name__,
)
def test_where_anything_is_in_doubt_it_moves_nowhere(scene: Scene, other: Node, doubt: Callable[..., None]) -> None:
    doubt(scene, other)
    tell(other, shown(scene.running, "running"))
    tell(scene.node, gone(scene.running))
    assert fresh(scene.running).node_id == scene.node.pk
    assert not AuditEvent.objects.filter(action="vm.moved_by_hand").exists()


def test_without_the_word_of_its_own_node_it_moves_nowhere(scene: Scene, other: Node) -> None:
    vm = scene.running
    tell(other, shown(vm, "running"), complete=True)
    assert (fresh(vm).node_id, fresh(vm).state) == (scene.node.pk, "running")
    Vm.objects.filter(pk=vm.pk).update(observed_counter=101)
    tell(scene.node, gone(vm), counter=100)  # older than the last reply
    assert fresh(vm).node_id == scene.node.pk


# --- domains that are no VMs ------------------------------------------------------------------------------


def theirs(**changes: Any) -> DomainFacts:
    plain = {"vcpus": 2, "vcpus_current": 2, "memory_bytes": 64 * MIB, "memory_current_bytes": 64 * MIB}
    return DomainFacts(uuid=NOBODY, name="theirs", state="running", outline=Outline(**plain), **changes)


def test_unknown_domains_are_kept_until_their_node_does_not_show_them(scene: Scene, api: People) -> None:
    def strangers() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = api("administrator").get(f"nodes/{scene.node.pk}/").json()["strangers"]
        return rows

    tell(scene.node, theirs(), shown(scene.running), shown(scene.stopped), complete=True)
    [row] = strangers()
    assert (row["uuid"], row["name"], row["state"], row["vcpus"]) == (NOBODY, "theirs", "running", 2)
    version = Node.objects.get(pk=scene.node.pk).version
    off = theirs().model_copy(update={"state": "shutoff", "outline": None})
    tell(scene.node, off)
    [row] = strangers()
    assert (row["state"], row["vcpus"]) == ("stopped", 2)
    assert Node.objects.get(pk=scene.node.pk).version == version + 1
    tell(scene.node, theirs().model_copy(update={"state": "absent"}))
    assert strangers() == []
    tell(scene.node, theirs())
    tell(scene.node, complete=True)
    assert strangers() == []


def test_a_domain_of_ours_without_rows_becomes_the_vm_that_it_was(scene: Scene) -> None:
    vm, address = scene.running, scene.running.nics.get().lease.address
    nic, disks = vm.nics.get().pk, set(vm.disks.values_list("pk", flat=True))
    allocated = Node.objects.get(pk=scene.node.pk).memory_allocated_bytes
    node, params = stranger(scene)
    facts = scene.node.facts | {"held": [{"nic": nic, "bridge": "br0", "address": address}]}
    Node.objects.filter(pk=node).update(facts=facts)
    for name, state in scene.world.objects.items():
        if state == "disk":
            scene.world.objects[name] = f"disk {1 << 30}"
    job = Executor(world=scene.world).run(start(scene.actor, "node.adopt_domain", params, node).job)
    assert job.state == "succeeded", job.error
    after = Vm.objects.get(uuid=vm.uuid)
    assert (after.pk, after.name, after.state, after.node_id) == (vm.pk, vm.name, "running", node)
    assert (after.nics.get().pk, after.nics.get().lease.address) == (nic, address)
    assert {(disk.pk, disk.size_bytes, disk.state) for disk in after.disks.all()} == {
        (pk, 1 << 30, "ready") for pk in disks
    }
    assert Node.objects.get(pk=node).strangers == {}
    assert Node.objects.get(pk=node).memory_allocated_bytes == allocated
    verbs = [message.verb for message in scene.world.messages]
    assert verbs == ["disk.look", "disk.look", "domain.read", "nic.plug", "domain.adopt"]


def test_a_domain_made_by_hand_becomes_a_vm_with_its_volume_and_its_interface(scene: Scene) -> None:
    node, params = made_by_hand(scene)
    shown = Node.objects.get(pk=node).strangers[params["uuid"]]["outline"]
    job = Executor(world=scene.world).run(start(scene.actor, "node.adopt_domain", params, node).job)
    assert job.state == "succeeded", job.error
    vm = Vm.objects.get(uuid=params["uuid"])
    assert (vm.name, vm.state, vm.vcpus, vm.memory_bytes) == ("new", "stopped", 1, 128 * MIB)
    [disk], nic = vm.disks.all(), vm.nics.get()
    assert (disk.pool, disk.size_bytes, disk.state, disk.bus) == (scene.pool, 1 << 30, "ready", "virtio")
    assert (nic.mac, nic.model, nic.lease.address) == ("52:54:00:77:00:01", "e1000", "10.99.0.100")
    verbs = [message.verb for message in scene.world.messages]
    assert verbs == ["pool.find", "domain.read", "disk.take", "nic.plug", "domain.take"]
    # The domain itself is no user of its volume, and is named so that it is left out.
    assert {message.body["user"] for message in scene.world.messages if "user" in message.body} == {vm.uuid}
    assert scene.world.objects[node, "domain:" + vm.pk] == "shutoff"
    assert not [name for _node, name in scene.world.objects if name.startswith(("volume:", "foreign:"))]
    assert Node.objects.get(pk=node).strangers == {}
    assert scene.pool.places.get(node=node).strangers == []
    assert domain_drift.expected([vm.pk])[vm.pk].disks[0].place != shown["disks"][0]["place"]


def test_what_can_be_put_right_in_a_dialog_does_not_lock_it(scene: Scene, people: dict[str, Person]) -> None:
    node, params = made_by_hand(scene)
    page = Browser(people["administrator"]).get(f"/nodes/{node}/do/adopt_domain/?uuid={params['uuid']}")
    assert "cannot be the name of a VM" in text_of(page)
    assert 'btn-primary" disabled' not in page.content.decode()


@pytest.mark.parametrize("step", ["disk.take", "domain.take"])
def test_what_is_not_taken_over_wholly_is_given_back_under_its_old_names(scene: Scene, step: str) -> None:
    node, params = made_by_hand(scene)
    before = scene.fingerprint()
    executor = Executor(
        world=scene.world, fault=lambda n, envelope: "uncertain_for_long" if envelope.verb == step else None
    )
    job = executor.run(start(scene.actor, "node.adopt_domain", params, node).job)
    assert job.state == "failed"
    assert scene.fingerprint() == before
    assert params["uuid"] in Node.objects.get(pk=node).strangers


def test_every_node_of_the_pool_is_asked_whether_somebody_there_has_the_volume(scene: Scene, other: Node) -> None:
    node, params = made_by_hand(scene)
    job = Executor(world=scene.world).run(start(scene.actor, "node.adopt_domain", params, node).job)
    # There is no such volume on the other one: then it is no volume of a shared pool.
    assert (job.state, (job.error or {})["code"]) == ("failed", "volume_absent")
    scene.world.objects[other.pk, "volume:theirs.qcow2"] = "disk"
    job = Executor(world=scene.world).run(start(scene.actor, "node.adopt_domain", params, node).job)
    assert job.state == "succeeded", job.error
    asked = [message for message in scene.world.messages if message.verb == "pool.find"][-2:]
    assert sorted("user" in message.body for message in asked) == [False, True]


def test_a_volume_that_is_read_as_another_format_than_it_has_is_left_alone(scene: Scene) -> None:
    node, params = made_by_hand(scene)
    row = Node.objects.get(pk=node)
    row.strangers[params["uuid"]]["outline"]["disks"][0]["format"] = "raw"
    row.save()
    scene.world.outlines[node, "foreign:Their web"]["disks"][0]["format"] = "raw"
    before = scene.fingerprint()
    job = Executor(world=scene.world).run(start(scene.actor, "node.adopt_domain", params, node).job)
    assert (job.state, (job.error or {})["code"]) == ("failed", "stranger_format")
    assert scene.fingerprint() == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s: s.update(state="running"), "stranger_runs"),
        (lambda s: s["outline"]["disks"][0].update(place="/srv/theirs.img"), "stranger_disk"),
        (lambda s: s["outline"]["disks"][0].update(bus="usb"), "stranger_device"),
        (lambda s: s["outline"]["disks"][0].update(device="lun"), "stranger_device"),
        (lambda s: s["outline"].update(beyond=["firmware", "tpm"]), "stranger_beyond"),
        (lambda s: s["outline"].update(memory_bytes=1 << 40), "no_memory"),
        (lambda s: s["outline"].update(vcpus=9), "no_cpus"),
    ],
)
def test_what_somebody_made_by_hand_and_no_vm_can_be_is_refused_with_the_reason_and_the_way(
    scene: Scene, api: People, change: Callable[[dict[str, Any]], None], code: str
) -> None:
    pk, params = made_by_hand(scene)
    node = Node.objects.get(pk=pk)
    change(node.strangers[params["uuid"]])
    node.save()
    answer = api("administrator").post(f"nodes/{pk}/adopt_domain/", params)
    assert answer.status_code in (409, 422, 507)
    [reason] = answer.json()["refusals"]
    assert (reason["code"], bool(reason["hint"])) == (code, True)


def test_an_agent_that_cannot_take_a_domain_over_is_told_before_anything_begins(scene: Scene, api: People) -> None:
    pk, params = made_by_hand(scene)
    ask = f"nodes/{pk}/adopt_domain/?dry_run=true"
    assert api("administrator").post(ask, params).json()["refusals"] == []
    verbs = {verb: fields for verb, fields in scene.node.verbs.items() if verb != "domain.take"}
    Node.objects.filter(pk=pk).update(verbs=verbs)
    [reason] = api("administrator").post(ask, params).json()["refusals"]
    assert reason["code"] == "node_too_old"


@pytest.mark.parametrize("goes_well", [True, False])
def test_a_domain_of_ours_to_which_somebody_gave_a_volume_takes_it_along_or_keeps_what_it_had(
    scene: Scene, goes_well: bool
) -> None:
    node, params = stranger(scene)
    made_by_hand(scene)  # for its volume
    row, world = Node.objects.get(pk=node), scene.world
    [name] = [name for at, name in world.outlines if name.startswith("domain:")]
    volume = {"id": "", "place": f"{scene.pool.path}/theirs.qcow2", "size_bytes": 1 << 30}
    world.outlines[node, name]["disks"][1] |= volume
    vm = name.removeprefix("domain:")
    shown = {"name": f"vm-running.{vm}", "state": "shutoff", "vm": vm, "outline": world.outlines[node, name]}
    row.strangers = {params["uuid"]: shown}
    row.save()
    world.objects[node, name] = "shutoff"
    before = scene.fingerprint()
    executor = Executor(
        world=world,
        fault=lambda n, envelope: None if goes_well or envelope.verb != "domain.take" else "refused",
    )
    job = executor.run(start(scene.actor, "node.adopt_domain", params, node).job)
    if not goes_well:
        assert job.state == "failed"
        assert scene.fingerprint() == before
        return
    assert job.state == "succeeded", job.error
    assert (Vm.objects.get(pk=vm).name, Vm.objects.get(pk=vm).disks.count()) == ("vm-running", 2)
    verbs = [message.verb for message in world.messages]
    assert verbs == ["disk.look", "pool.find", "domain.read", "disk.take", "nic.plug", "domain.take"]


def test_a_name_that_no_vm_can_have_must_be_given_another_one(scene: Scene, api: People) -> None:
    pk, params = made_by_hand(scene)
    answer = api("administrator").post(f"nodes/{pk}/adopt_domain/?dry_run=true", {"uuid": params["uuid"]})
    assert [(one["code"], one["field"]) for one in answer.json()["refusals"]] == [("stranger_needs_name", "name")]
    answer = api("administrator").post(f"nodes/{pk}/adopt_domain/?dry_run=true", params).json()
    assert answer["refusals"] == []
    assert [(row["pool"], row["size_bytes"]) for row in answer["quote"]["disks"]] == [(scene.pool.pk, 1 << 30)]


def test_its_page_leads_to_a_dialog_with_a_name_that_it_could_have(scene: Scene, people: dict[str, Person]) -> None:
    pk, params = made_by_hand(scene)
    browser = Browser(people["administrator"])
    page = browser.get(f"/nodes/{pk}/").content.decode()
    link = f"/nodes/{pk}/do/adopt_domain/?uuid={params['uuid']}"
    assert f'href="{link}&amp;name=their-web"' in page
    assert "adopt_domain" not in Browser(people["read_only"]).get(f"/nodes/{pk}/").content.decode()
    dialog = browser.get(f"{link}&name=their-web").content.decode()
    assert 'value="their-web"' in dialog
    assert "cannot be the name of a VM" not in dialog
    # What no name can be is not put there, and hurts nobody.
    assert 'name="name"' in browser.get(f"{link}&name=%22%3E!").content.decode()
    typed = {"uuid": params["uuid"], "name": "", "tenant": ""}
    assert "cannot be the name of a VM" in str(browser.press(link, typed).headers)


def test_a_guest_that_is_off_can_come_to_another_network_than_its_bridge_says(scene: Scene, api: People) -> None:
    pk, params = made_by_hand(scene)
    node = Node.objects.get(pk=pk)
    node.strangers[params["uuid"]]["outline"]["nics"][0]["bridge"] = "virbr0"
    node.save()
    ask = f"nodes/{pk}/adopt_domain/?dry_run=true"
    [reason] = api("administrator").post(ask, {**params, "networks": {}}).json()["refusals"]
    assert reason["code"] == "stranger_network"
    assert api("administrator").post(ask, params).json()["refusals"] == []


def test_an_image_of_another_ceph_cluster_with_a_pool_of_that_name_is_not_taken(scene: Scene, api: People) -> None:
    pk, params = made_by_hand(scene)
    ceph = Pool.objects.create(
        name="ceph", kind="rbd", identity="c/1", path="rbd", monitors=["10.0.0.1:6789"], granules={"raw": 4 << 20}
    )
    PoolOnNode.objects.create(pool=ceph, node_id=pk)
    node = Node.objects.get(pk=pk)

    def codes(hosts: list[str]) -> list[str]:
        disk = {"place": "rbd/theirs", "format": "raw", "hosts": hosts}
        node.strangers[params["uuid"]]["outline"]["disks"][0] |= disk
        node.save()
        answer = api("administrator").post(f"nodes/{pk}/adopt_domain/?dry_run=true", params)
        return [one["code"] for one in answer.json()["refusals"]]

    assert codes(["10.0.0.1"]) == []
    assert codes(["10.0.0.7"]) == codes([]) == ["stranger_disk"]


def test_of_two_pools_of_one_volume_group_the_one_that_shows_the_volume_is_meant(scene: Scene, api: People) -> None:
    pk, params = made_by_hand(scene)
    thick, thin = (
        Pool.objects.create(name=name, kind=kind, identity=name, path=path, granules={"raw": 4 << 20})
        for name, kind, path in (("thick", "lvm", "vg0"), ("thin", "lvmthin", "vg0/tp"))
    )
    PoolOnNode.objects.create(pool=thick, node_id=pk)
    its = PoolOnNode.objects.create(pool=thin, node_id=pk)
    node = Node.objects.get(pk=pk)
    node.strangers[params["uuid"]]["outline"]["disks"][0] |= {"place": "/dev/vg0/theirs", "format": "raw"}
    node.save()
    ask = f"nodes/{pk}/adopt_domain/?dry_run=true"
    assert [one["code"] for one in api("administrator").post(ask, params).json()["refusals"]] == ["stranger_disk"]
    its.strangers = [{"name": "theirs", "format": "raw", "size_bytes": 1 << 30}]
    its.save()
    answer = api("administrator").post(ask, params).json()
    assert (answer["refusals"], answer["quote"]["disks"][0]["pool"]) == ([], thin.pk)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s: s["outline"]["disks"][0].update(id="", place="/srv/theirs.img"), "stranger_disk"),
        (lambda s: s["outline"]["disks"][0].update(place="/srv/" + s["outline"]["disks"][0]["id"]), "stranger_disk"),
        (lambda s: s["outline"]["nics"][0].update(bridge="br7"), "stranger_network"),
        (lambda s: s["outline"]["nics"][0].update(mac="52:54:00:00:00:02"), "mac_taken"),
        (lambda s: s.update(outline=None), "stranger_unknown"),
    ],
)
def test_what_cannot_become_a_vm_is_refused_with_each_reason(
    scene: Scene, api: People, change: Callable[[dict[str, Any]], None], code: str
) -> None:
    pk, params = stranger(scene)
    node = Node.objects.get(pk=pk)
    change(node.strangers[params["uuid"]])
    node.save()
    answer = api("administrator").post(f"nodes/{pk}/adopt_domain/", {"uuid": params["uuid"]})
    assert answer.status_code in (409, 422)
    assert code in [one["code"] for one in answer.json()["refusals"]]
    assert Vm.objects.count() == 1


def test_a_domain_that_nobody_shows_is_refused(scene: Scene, api: People) -> None:
    pk, _params = stranger(scene)
    answer = api("administrator").post(f"nodes/{pk}/adopt_domain/", {"uuid": NOBODY})
    assert (answer.status_code, answer.json()["code"]) == (422, "stranger_unknown")
    assert api("administrator").post(f"nodes/{pk}/adopt_domain/", {"uuid": "x"}).status_code == 400


@pytest.mark.parametrize("change", ["volume", "definition"])
def test_one_that_changed_since_it_was_looked_at_stays_as_it_is(scene: Scene, change: str) -> None:
    pk, params = stranger(scene)
    [vm] = [name for at, name in scene.world.outlines if at == pk]
    if change == "volume":
        disk = scene.world.outlines[pk, vm]["disks"][0]["id"]
        del scene.world.objects[pk, "disk:" + disk]
    else:
        scene.world.outlines[pk, vm] = scene.world.outlines[pk, vm] | {"vcpus": 7}
    before = dict(scene.world.objects)
    job = Executor(world=scene.world).run(start(scene.actor, "node.adopt_domain", params, pk).job)
    assert job.state == "failed"
    assert (job.error or {})["code"] == ("disk_not_ours" if change == "volume" else "stranger_changed")
    assert Vm.objects.count() == 1
    assert scene.world.objects == before


# --- pages ------------------------------------------------------------------------------------------------


def test_pages_say_what_was_changed_and_what_can_be_done(scene: Scene, other: Node, people: dict[str, Person]) -> None:
    vm = scene.running
    tell(scene.node, shown(vm, vcpus=4, vcpus_current=4, autostart=True), theirs())
    tell(other, shown(vm, "running"))
    browser = Browser(people["administrator"])
    card = browser.get(f"/vms/{vm.pk}/")
    words = text_of(card)
    assert "Changed behind the panel's back" in words
    assert "n2 shows this guest too: running" in words, words[words.index("Changed behind") :][:300]
    assert f"/vms/{vm.pk}/do/adopt_claim/" in card.content.decode()
    assert "It is right there" in text_of(browser.get(f"/vms/{vm.pk}/do/adopt_claim/"))
    assert card.content.decode().count('name="field"') == 1  # vCPU; libvirt's autostart is never ours
    assert "Changed behind" not in text_of(Browser(people["owner"]).get(f"/vms/{vm.pk}/"))
    assert "n2 shows a guest that belongs to n1" in text_of(browser.get(f"/nodes/{other.pk}/"))
    node = text_of(browser.get(f"/nodes/{scene.node.pk}/"))
    assert "Domains that the panel does not know" in node
    assert "theirs" in node


def test_the_card_of_one_that_is_gone_offers_to_define_it_again(scene: Scene, people: dict[str, Person]) -> None:
    tell(scene.node, gone(scene.running))
    card = Browser(people["administrator"]).get(f"/vms/{scene.running.pk}/")
    assert "Gone from its node" in text_of(card)
    assert "has lost nothing" not in text_of(card)
    assert f"/vms/{scene.running.pk}/do/reapply/" in card.content.decode()
