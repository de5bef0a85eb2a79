"""Rows -> the values that travel to a node."""

from collections.abc import Iterable, Mapping
from typing import Any

from nodes.contract.messages import NodeInspect
from nodes.contract.specs import DiskSpec, DomainDisk, DomainSpec, NicSpec, PoolSpec

from .models import Disk, Nic, Node, Pending, Pool, Vm


def inspection(node: Node, *, volumes: bool = False) -> NodeInspect:
    """The question with every node's name in it, as far as the agent knows of such a field.

    :param volumes: whether the node shall look at its volumes, too.
    """
    known = node.verbs.get(NodeInspect.verb, ())
    more: dict[str, Any] = {"peers": dict(Node.objects.values_list("name", "address"))} if "peers" in known else {}
    more |= {"volumes": True} if volumes and "volumes" in known else {}
    return NodeInspect(**more)


def pool_spec(pool: Pool) -> PoolSpec:
    # What is not set stays unset: an older agent does not know of it.
    more: dict[str, Any] = {"stripes": pool.stripes} if pool.stripes > 1 else {}
    more |= {"monitors": tuple(pool.monitors), "user": pool.user} if pool.monitors else {}
    return PoolSpec(id=pool.pk, kind=pool.kind, identity=pool.identity, path=pool.path, **more)


def volume_of(disk: Disk) -> dict[str, Any]:
    """``id``, ``pool`` and ``format``: how every message names a disk's volume."""
    assert disk.pool
    return {"id": disk.pk, "pool": pool_spec(disk.pool), "format": disk.format}


def disk_spec(disk: Disk) -> DiskSpec:
    """A volume to be made, without an image behind it."""
    return DiskSpec(**volume_of(disk), size_bytes=disk.size_bytes)


def nic_spec(nic: Nic) -> NicSpec:
    """With the settings of the range that holds its address."""
    lease = getattr(nic, "lease", None)
    if lease is None:
        return NicSpec(id=nic.pk, bridge=nic.network.bridge, model=nic.model, mac=nic.mac)
    span = next(r for r in nic.network.ranges.all() if r.holds(lease.address))
    return NicSpec(
        id=nic.pk,
        bridge=nic.network.bridge,
        model=nic.model,
        mac=nic.mac,
        address=lease.address,
        prefix_length=span.prefix_length,
        gateway=span.gateway,
        nameservers=tuple(span.nameservers),
    )


def domain_disk(disk: Disk) -> DomainDisk:
    if disk.device == "cdrom":
        iso = disk.iso.name if disk.iso else None
        return DomainDisk(device="cdrom", id=disk.pk, bus=disk.bus, iso=iso, boot_order=disk.boot_order)
    assert disk.pool
    more: dict[str, Any] = {"cache": disk.cache} if disk.cache else {}
    return DomainDisk(
        id=disk.pk, bus=disk.bus, pool=pool_spec(disk.pool), format=disk.format, boot_order=disk.boot_order, **more
    )


def elsewhere(disk: Disk, place: Mapping[str, Any]) -> Disk:
    """A disk as it will be when its content has gone to another volume; its row is left as it is.

    :param place: ``pool`` (its id), ``format`` and ``size_bytes``.
    """
    disk.pool = Pool.objects.get(pk=place["pool"])
    disk.format, disk.size_bytes, disk.image = place["format"], place["size_bytes"], None
    return disk


def domain_spec(vm: Vm, without: str = "", moved: Iterable[Disk] = ()) -> DomainSpec:
    """
    :param without: id of a disk that is left out.
    :param moved: disks of it as they will be.
    """
    # One that the guest still has, but shall not have again.
    rows = vm.disks.select_related("pool", "iso").exclude(pending=Pending.DETACH).exclude(pk=without)
    changed = {disk.pk: disk for disk in moved}
    disks = (changed.get(row.pk, row) for row in rows)
    nics = vm.nics.select_related("network", "lease").prefetch_related("network__ranges")
    return DomainSpec(
        id=vm.pk,
        uuid=vm.uuid,
        name=vm.name,
        title=vm.title,
        vcpus=vm.vcpus,
        memory_bytes=vm.memory_bytes,
        disks=tuple(domain_disk(d) for d in disks),
        nics=tuple(nic_spec(n) for n in nics),
    )
