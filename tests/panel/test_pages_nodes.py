"""Nodes: the command that adds one, its checks in words, and why one is not removed."""

from uuid import UUID

import pytest

from cluster import reconcile
from cluster.models import Node
from nodes.contract.messages import Inventory
from tests.panel.browser import Browser, text_of
from tests.panel.engine.scenarios import Scene
from tests.people import Person

ROOM = {"capacity_bytes": 100 << 30, "free_bytes": 80 << 30, "granules": {"qcow2": 65536, "raw": 512}}


@pytest.fixture
def browser(scene: Scene, people: dict[str, Person]) -> Browser:
    return Browser(people["administrator"])


@pytest.mark.usefixtures("authority")
def test_a_node_is_added_by_one_command_and_the_page_watches_for_it(browser: Browser) -> None:
    page = browser.post("/nodes/new/", {"name": "n2", "address": "10.99.0.12"})
    node = Node.objects.get(name="n2")
    assert page.status_code == 201
    assert "ulei-node join --panel" in text_of(page)
    assert f'data-src="/nodes/{node.pk}/state/"' in page.content.decode()
    assert "waiting for the machine" in text_of(browser.fragment(f"/nodes/{node.pk}/state/"))
    Node.objects.filter(pk=node.pk).update(state="online", joined="2026-01-01T00:00:00Z")
    assert "n2 is here." in text_of(browser.fragment(f"/nodes/{node.pk}/state/"))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"name": "Узел", "address": "10.99.0.12"}, "a to z, digits and hyphens"),
        ({"name": "n2", "address": "somewhere"}, "An IPv4 address"),
        ({"name": "n1", "address": "10.99.0.12"}, "already a node named n1"),
        ({"name": "n2", "address": "10.99.0.11"}, "already a node with the address"),
    ],
)
def test_a_wrong_name_or_address_is_said_beside_what_was_typed(
    typed: dict[str, str], words: str, browser: Browser
) -> None:
    page = browser.post("/nodes/new/", typed)
    assert page.status_code in (409, 422)
    assert words in text_of(page)
    assert f'value="{typed["name"]}"' in page.content.decode()


def test_checks_are_said_with_their_level_in_words_and_what_to_do(browser: Browser, scene: Scene) -> None:
    scene.node.checks = [
        {"code": "kvm", "level": "warning", "facts": {"type": "qemu", "reason": "no /dev/kvm"}},
        {"code": "memory", "level": "ok", "facts": {"bytes": 16 << 30, "least_bytes": 2 << 30}},
        {"code": "from-the-future", "level": "error", "facts": {"a": 1}},
    ]
    scene.node.save()
    words = text_of(browser.get(f"/nodes/{scene.node.pk}/"))
    assert "1 failure, 1 warning" in words
    assert "warning KVM guests run under software emulation (TCG): no /dev/kvm Load the modules kvm" in words
    assert "failure from-the-future a: 1" in words


def test_guests_that_a_panel_put_back_from_a_backup_has_forgotten_are_named_and_strangers_are_not(
    browser: Browser, scene: Scene
) -> None:
    facts = {
        "hostname": "n1", "cpus": 8, "memory_bytes": 16 << 30, "cpu_model": "x", "virt_type": "qemu",
        "libvirt_version": "9.0.0", "qemu_version": "7.2.0", "host_uuid": "u",
        "bridges": ["br0"],
    }  # fmt: skip
    image = {"name": scene.image.name, "format": "qcow2", "size_bytes": 9 << 20, "virtual_size_bytes": 48 << 20}
    pool = {"kind": "directory", "identity": scene.pool.identity, "path": scene.pool.path, **ROOM}
    seen = [
        {"uuid": scene.running.uuid, "name": scene.running.domain_name, "state": "running", "vm": scene.running.pk},
        {"uuid": str(UUID(int=1)), "name": "since.aaaaaaaaaaaaa", "state": "running", "vm": "aaaaaaaaaaaaa"},
        {"uuid": str(UUID(int=2)), "name": "theirs", "state": "running"},
    ]
    report = {"incarnation": 1, "counter": 1, "facts": facts, "checks": (), "pools": (pool,)}
    report |= {"images": (image | {"modified": 1.0},), "isos": ()}
    reconcile.inventory(scene.node, Inventory.model_validate(report | {"domains": seen}), None)
    words = text_of(browser.get(f"/nodes/{scene.node.pk}/"))
    assert "warning Guests that the panel does not know 1: since.aaaaaaaaaaaaa Made since the backup" in words
    # Nobody else gets its address, until it is gone.
    first = {"nic": "a" * 13, "bridge": "br0", "address": "10.99.0.100"}
    own = {"nic": scene.running.nics.get().pk, "bridge": "br0", "address": "10.99.0.101"}
    other = {"nic": "b" * 13, "bridge": "br7", "address": "10.99.0.102"}
    reported = report | {"domains": seen, "leases": [first, own, other]}
    reconcile.inventory(scene.node, Inventory.model_validate(reported), None)
    assert scene.network.held() == {"10.99.0.100"}
    vm = scene.start("vm.create").subject
    assert list(vm.nics.values_list("lease__address", flat=True)) == ["10.99.0.101", "10.99.0.102"]
    reconcile.inventory(scene.node, Inventory.model_validate(report | {"domains": seen[::2]}), None)
    assert scene.network.held() == set()
    assert "Guests that the panel does not know" not in text_of(browser.get(f"/nodes/{scene.node.pk}/"))


def test_a_node_with_vms_is_not_removed_and_says_why(browser: Browser, scene: Scene) -> None:
    page = browser.get(f"/nodes/{scene.node.pk}/").content.decode()
    assert "still has 2 VMs" in page
    assert "still has 2 VMs" in text_of(browser.get(f"/nodes/{scene.node.pk}/do/remove/"))
