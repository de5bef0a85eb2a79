"""How doubt about a step on a VM is settled: one question to its node, and what the answer says.

Not an operation: the parts that several of them share.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cluster.domain_specs import volume_of
from cluster.models import Disk, Vm
from cluster.saga.steps import Call, Context, Settle, Verdict
from nodes.contract.messages import DiskLook, DiskState, DomainLook, DomainWhereabouts


def _look_at_domain(context: Context[Any], key: str) -> Sequence[Call]:
    vm = Vm.objects.filter(pk=context.subject_id).first()
    return [Call(vm.node_id, DomainLook(vm=vm.pk, uuid=vm.uuid))] if vm else []


def look_at_disk(context: Context[Any], disk_id: str) -> Sequence[Call]:
    disk = Disk.objects.select_related("pool", "vm").filter(pk=disk_id).first()
    if disk is None or disk.pool is None:
        return []
    # One that no VM has is looked at where the job works on it.
    node = disk.vm.node_id if disk.vm else context.data["node"]
    return [Call(node, DiskLook(**volume_of(disk)))]


def _domain_verdict(happened: Callable[[DomainWhereabouts], bool]) -> Callable[[Context[Any], Sequence[Any]], Verdict]:
    def verdict(context: Context[Any], results: Sequence[DomainWhereabouts | None]) -> Verdict:
        seen = results[0] if results else None
        if seen is None:
            return "unclear"
        if seen.job_active:
            return "wait"
        return "done" if happened(seen) else "not_done"

    return verdict


def _disk_verdict(exists: bool) -> Callable[[Context[Any], Sequence[Any]], Verdict]:
    def verdict(context: Context[Any], results: Sequence[DiskState | None]) -> Verdict:
        seen = results[0] if results else None
        if seen is None:
            return "unclear"
        # A volume without our mark is somebody else's: for us there is none.
        return "done" if (seen.exists and seen.ours) is exists else "not_done"

    return verdict


def settle_power(*states: str) -> Settle:
    """Happened when the domain shows one of these states."""
    return Settle(_look_at_domain, _domain_verdict(lambda seen: seen.state in states))


settle_defined = Settle(_look_at_domain, _domain_verdict(lambda seen: seen.defined))
settle_undefined = Settle(_look_at_domain, _domain_verdict(lambda seen: seen.state == "absent"))


def _look_at_disk(context: Context[Any], disk_id: str) -> Sequence[Call]:
    return look_at_disk(context, disk_id or context.subject_id)


settle_disk_exists = Settle(_look_at_disk, _disk_verdict(exists=True))
settle_disk_gone = Settle(_look_at_disk, _disk_verdict(exists=False))
