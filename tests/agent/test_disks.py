"""The directory driver through the agent: what is ours, what is not, and what has no room."""

import os
import subprocess

import pytest

from nodes.contract import messages as m
from nodes.contract.specs import DiskSpec, DomainDisk, DomainSpec, PoolSpec, VolumeSpec
from tests.agent.panel import code

DISK, VM = "d" * 13, "v" * 13
UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def agent(shared_agent):
    yield shared_agent
    shared_agent.empty()


@pytest.fixture
def panel(agent):
    return agent.panel


def create(agent, **changes):
    values = {"id": DISK, "pool": agent.pool, "format": "qcow2", "size_bytes": 1 << 20}
    return m.DiskCreate(disk=DiskSpec(**{**values, **changes}))


def delete(agent, **changes):
    return m.DiskDelete(**{"id": DISK, "pool": agent.pool, "format": "qcow2", **changes})


def look(agent, **changes):
    return m.DiskLook(**{"id": DISK, "pool": agent.pool, "format": "qcow2", **changes})


def volume(agent, disk=DISK, suffix="qcow2"):
    return agent.images / f"{disk}.{suffix}"


def image(agent, name="image.qcow2", *arguments):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments, str(agent.images / name), "1M"], check=True)
    return str(agent.images / name)


SEEN = {"exists": True, "ours": False, "size_bytes": None, "used_by": [], "snapshots": [], "independent": None}
"""A file that is not ours."""


@pytest.mark.parametrize("disk_format", ["qcow2", "raw"])
def test_a_volume_is_made_marked_and_measured(disk_format, agent, panel):
    assert panel.done(create(agent, format=disk_format)) == {"size_bytes": 1 << 20}
    assert os.getxattr(volume(agent, suffix=disk_format), "user.ulei.disk").decode() == DISK
    seen = panel.done(look(agent, format=disk_format))
    assert seen == {**SEEN, "ours": True, "size_bytes": 1 << 20}
    panel.done(delete(agent, format=disk_format))
    assert not volume(agent, suffix=disk_format).exists()
    assert not panel.done(look(agent, format=disk_format))["exists"]


def test_a_volume_that_exists_is_done_and_its_content_stays(agent, panel):
    panel.done(create(agent, format="raw"))
    volume(agent, suffix="raw").write_bytes(b"x" * (1 << 20))
    panel.done(create(agent, format="raw"))
    assert volume(agent, suffix="raw").read_bytes() == b"x" * (1 << 20)


def test_our_volume_of_another_size_is_refused(agent, panel):
    panel.done(create(agent))
    assert code(panel.call(create(agent, size_bytes=2 << 20))) == "exists_other_size"


@pytest.mark.parametrize("mark", [None, b"e" * 13, b""])
def test_a_foreign_file_of_the_wanted_name_survives_everything(mark, agent, panel):
    volume(agent).write_text("somebody's")
    if mark is not None:
        os.setxattr(volume(agent), "user.ulei.disk", mark)
    assert code(panel.call(create(agent))) == "exists_not_ours"
    assert code(panel.call(delete(agent))) == "exists_not_ours"
    seen = panel.done(look(agent))
    assert seen == SEEN
    assert volume(agent).read_text() == "somebody's"


def test_beside_a_foreign_file_only_our_half_made_volume_goes(agent, panel):
    volume(agent).write_text("somebody's")
    part = volume(agent, suffix="part")
    part.touch()
    os.setxattr(part, "user.ulei.disk", DISK.encode())
    assert code(panel.call(delete(agent))) == "exists_not_ours"
    assert not part.exists()
    assert volume(agent).read_text() == "somebody's"


def test_a_foreign_part_survives_everything(agent, panel):
    part = volume(agent, suffix="part")
    part.touch()
    assert code(panel.call(create(agent))) == "exists_not_ours"
    assert code(panel.call(delete(agent))) == "exists_not_ours"
    assert part.exists()


def test_a_symlink_is_never_ours(agent, panel):
    target = agent.folder / "precious"
    target.write_text("somebody's")
    os.setxattr(target, "user.ulei.disk", DISK.encode())
    volume(agent).symlink_to(target)
    assert code(panel.call(create(agent))) == "exists_not_ours"
    assert code(panel.call(delete(agent))) == "exists_not_ours"
    assert target.read_text() == "somebody's"
    assert volume(agent).is_symlink()


def test_deleting_what_is_absent_is_done(agent, panel):
    panel.done(delete(agent))


def test_another_pool_at_the_same_path_is_not_touched(agent, panel):
    other = PoolSpec(id="p" * 13, kind="directory", identity="another", path=str(agent.images))
    assert code(panel.call(create(agent, pool=other))) == "pool_identity"
    assert code(panel.call(delete(agent, pool=other))) == "pool_identity"
    assert not volume(agent).exists()


def test_a_volume_group_that_is_not_there_is_refused(agent, panel):
    other = PoolSpec(id="p" * 13, kind="lvm", identity="x", path="no-such-group")
    assert code(panel.call(create(agent, pool=other, format="raw"))) == "pool_identity"


@pytest.mark.parametrize("disk_format", ["qcow2", "raw"])
def test_what_never_fits_has_no_room(disk_format, agent, panel):
    reply = panel.call(create(agent, format=disk_format, size_bytes=10 << 60))
    assert code(reply) == "no_room"
    assert reply.error.facts["needed"] == 10 << 60
    assert str(agent.images) in reply.error.cause
    assert [file.name for file in agent.images.iterdir()] == [".ulei-pool"]


def test_a_disk_from_an_image_rests_on_it_and_keeps_it(agent, panel):
    backing = image(agent)
    panel.done(create(agent, size_bytes=2 << 20, backing=backing, backing_format="qcow2"))
    info = subprocess.run(["qemu-img", "info", str(volume(agent))], capture_output=True, text=True, check=True).stdout
    assert f"backing file: {backing}" in info


def test_a_volume_on_which_another_rests_is_in_use(agent, panel):
    panel.done(create(agent))
    other = create(agent, id="e" * 13, backing=str(volume(agent)), backing_format="qcow2")
    panel.done(other)
    assert code(panel.call(delete(agent))) == "disk_in_use"
    panel.done(delete(agent, id="e" * 13))
    panel.done(delete(agent))


def test_an_image_outside_the_pool_is_refused(agent, panel):
    outside = agent.folder / "outside.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(outside), "1M"], check=True)
    linked = agent.images / "linked.qcow2"
    linked.symlink_to(outside)
    resting = image(agent, "resting.qcow2", "-b", str(outside), "-F", "qcow2")
    climbing = str(agent.images / ".." / "outside.qcow2")
    for backing in (str(outside), str(linked), resting, climbing, str(agent.images / "missing.qcow2")):
        assert code(panel.call(create(agent, backing=backing, backing_format="qcow2"))) == "backing_invalid"


def test_a_disk_that_any_domain_names_is_in_use(agent, panel):
    panel.done(create(agent))
    disk = DomainDisk(id=DISK, bus="virtio", pool=agent.pool, format="qcow2")
    spec = DomainSpec(id=VM, uuid=UUID, name="web", vcpus=1, memory_bytes=1 << 27, disks=(disk,))
    panel.done(m.DomainDefine(domain=spec))
    assert panel.done(look(agent))["used_by"] == ["web." + VM]
    reply = panel.call(delete(agent))
    assert code(reply) == "disk_in_use"
    assert "web." + VM in reply.error.cause
    panel.done(m.DomainUndefine(vm=VM, uuid=UUID))
    panel.done(delete(agent))


def test_a_disk_grows_is_kept_reverted_and_copied(agent, panel):
    named = {"id": DISK, "pool": agent.pool, "format": "qcow2"}
    panel.done(create(agent))
    assert panel.done(m.DiskResize(**named, size_bytes=(2 << 20) + 1)) == {"size_bytes": (2 << 20) + 65536}
    assert code(panel.call(m.DiskResize(**named, size_bytes=1 << 20))) == "would_shrink"
    panel.done(m.DiskSnapshot(**named, snapshot="s" * 13))
    assert panel.done(look(agent))["snapshots"] == ["s" * 13]
    assert code(panel.call(delete(agent))) == "disk_in_use"
    panel.done(m.DiskRevert(**named, snapshot="s" * 13))
    copy = DiskSpec(id="e" * 13, pool=agent.pool, format="raw", size_bytes=4 << 20)
    clone = {"disk": copy, "source": VolumeSpec(**named), "snapshot": "s" * 13}
    assert panel.done(m.DiskClone(**clone)) == {"size_bytes": 4 << 20}
    assert code(panel.call(m.DiskClone(**{**clone, "disk": copy.model_copy(update={"id": "f" * 13})}, linked=True)))
    panel.done(m.DiskSnapshotDelete(**named, snapshot="s" * 13))
    panel.done(delete(agent))
    panel.done(delete(agent, id="e" * 13, format="raw"))
    assert [file.name for file in agent.images.iterdir()] == [".ulei-pool"]


def test_an_attached_pool_is_told_of_until_it_is_detached(agent, panel):
    folder = agent.folder / "second"
    folder.mkdir()
    pool = PoolSpec(id="q" * 13, kind="directory", identity="", path=str(folder))
    identity = panel.done(m.PoolAttach(pool=pool))["facts"]["identity"]
    assert identity == (folder / ".ulei-pool").read_text().strip()
    panel.done(m.NodeInspect())
    assert [facts.path for facts in panel.newest(m.Inventory).pools] == [str(agent.images), str(folder)]
    (folder / ".ulei-pool").unlink()
    panel.done(m.NodeInspect())
    assert panel.newest(m.Inventory).pools[1].problem == "pool_identity"
    panel.done(m.PoolDetach(id="q" * 13))
    panel.done(m.NodeInspect())
    assert [facts.path for facts in panel.newest(m.Inventory).pools] == [str(agent.images)]
    other = pool.model_copy(update={"identity": "another"})
    assert code(panel.call(m.PoolAttach(pool=other))) == "pool_identity"


def test_images_are_found_and_our_own_volumes_are_none(agent, panel):
    panel.done(create(agent))
    image(agent, "debian.qcow2")
    (agent.images / "broken.qcow2").write_bytes(b"QFI\xfb" + bytes(1 << 20))
    (agent.images / "link.qcow2").symlink_to("/etc/passwd")
    (agent.isos / "install.iso").write_bytes(b"iso")
    panel.done(m.NodeInspect())
    seen = panel.newest(m.Inventory)
    assert [(file.name, file.format, file.virtual_size_bytes) for file in seen.images] == [
        ("debian.qcow2", "qcow2", 1 << 20)
    ]
    assert [(file.name, file.size_bytes) for file in seen.isos] == [("install.iso", 3)]


def test_a_file_that_somebody_left_is_told_of_and_becomes_a_disk(agent, panel):
    image(agent, "their web.qcow2")
    panel.done(m.NodeInspect(volumes=True))
    seen = panel.newest(m.Inventory).volumes.strangers[agent.pool.identity]
    assert [(one.name, one.format, one.size_bytes) for one in seen] == [("their web.qcow2", "qcow2", 1 << 20)]
    named = {"pool": agent.pool, "name": "their web.qcow2"}
    assert panel.done(m.PoolFind(**named)) == {"format": "qcow2", "size_bytes": 1 << 20}
    taken = {"id": DISK, "format": "qcow2", **named}
    assert panel.done(m.DiskTake(**taken)) == {"size_bytes": 1 << 20}
    assert panel.done(look(agent))["ours"]
    panel.done(m.NodeInspect(volumes=True))
    assert panel.newest(m.Inventory).volumes.strangers[agent.pool.identity] == ()
    panel.done(m.DiskGiveBack(**taken))
    assert not panel.done(look(agent))["exists"]
    assert code(panel.call(m.PoolFind(pool=agent.pool, name="absent.qcow2"))) == "volume_absent"
    with pytest.raises(ValueError, match="pattern"):
        m.PoolFind(pool=agent.pool, name="../shadow.raw")
