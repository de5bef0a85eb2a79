"""A guest that somebody moved to another node behind the panel's back: the VM follows it (law 6).

Only where all of it is beyond doubt: the VM's own node, online, says that it is gone there; exactly one other node,
online, shows it; and every disk is in a pool that both have. Anything else is a claim, and a person looks.
"""

import logging
from collections.abc import Mapping

from django.db.models import F

from . import audit, placement, states
from .models import Disk, Lock, Node, NodeState, PoolOnNode, Vm, VmState
from .saga import locks
from .states import SEEN

log = logging.getLogger(__name__)

ACTION = "vm.moved_by_hand"


def follow(vm_id: str, source_id: str, claims: Mapping[str, str]) -> bool:
    """Place the VM where it is shown; False: that is not beyond doubt, and nothing was changed.

    Its leases, filters and what a boot of the node starts are not there yet: ``vm.reapply`` makes them stand.

    :param source_id: its node, which says that it is gone.
    :param claims: what other nodes show.
    """
    nodes = Node.objects.exclude(redis_password_sha256="").in_bulk([source_id, *claims])
    source = nodes.pop(source_id, None)
    if source is None or len(nodes) != 1:
        return False
    [target] = nodes.values()
    if NodeState.OFFLINE in (source.state, target.state) or not sees_all_disks(vm_id, target.pk):
        return False
    locks.serialise()
    if Lock.objects.filter(name="vm:" + vm_id).exists():
        return False
    vm = Vm.objects.get(pk=vm_id)
    place(vm, source, target, SEEN[claims[target.pk]])
    audit.write(
        None, ACTION, "done", subject="vm:" + vm_id, subject_name=vm.name, source=source.name, target=target.name
    )
    return True


def place(vm: Vm, source: Node, target: Node, state: VmState) -> None:
    """It belongs to the target from now on; the caller holds the VM, or knows that nobody does."""
    # The counter is the old node's: what the new one has seen is compared with its own.
    there = {"node": target, "observed_counter": 0, "home": None, "starts_at_home": False, "claims": None}
    came_from = None if vm.moved_from_id == target.pk else vm.moved_from_id or source.pk
    there["started_on"] = None if state == VmState.STOPPED else vm.started_on or source
    Vm.objects.filter(pk=vm.pk).update(
        **there, moved_from=came_from, state=state, state_reason="", drift={}, version=F("version") + 1
    )
    placement.release(source.pk, vm)
    placement.take(target.pk, vm)
    log.warning("VM %s was moved by hand from node %s to node %s", vm.pk, source.name, target.name)
    states.tell([vm.pk])


def sees_all_disks(vm_id: str, node_id: str) -> bool:
    its = set(Disk.objects.filter(vm=vm_id, device="disk").values_list("pool", flat=True))
    return its <= set(PoolOnNode.objects.filter(node=node_id, pool__in=its).values_list("pool", flat=True))
