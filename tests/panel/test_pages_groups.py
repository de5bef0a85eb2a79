"""Groups on the pages: both kinds in one list, dialogs, and where a VM and a node show theirs."""

import pytest

from cluster.models import AffinityGroup, Node, NodeGroup, Vm
from nodes.contract.sizes import GIB
from tests.panel.browser import Browser, text_of
from tests.panel.engine.scenarios import Scene
from tests.people import Person


@pytest.fixture
def operator(people: dict[str, Person]) -> Browser:
    return Browser(people["administrator"])


def test_a_group_of_vms_is_made_changed_and_removed(operator: Browser, scene: Scene) -> None:
    assert "None yet. Two web servers" in text_of(operator.get("/groups/"))
    tenant = scene.running.tenant_id
    asked = {"name": "web", "policy": "apart", "hard": "1", "tenant": tenant}
    assert "groups" in operator.press("/affinity-groups/new/", asked)["HX-Trigger"]
    group = AffinityGroup.objects.get(name="web", tenant=tenant)
    group.vms.set([scene.running])
    assert "web each on another node strictly acme vm-running" in text_of(operator.get("/groups/"))
    operator.press(f"/affinity-groups/{group.pk}/edit/", {"name": "site"})
    assert "site each on another node as far as it goes" in text_of(operator.get("/groups/"))
    assert "Its VMs stay where they are" in text_of(operator.fragment(f"/affinity-groups/{group.pk}/remove/"))
    operator.press(f"/affinity-groups/{group.pk}/remove/")
    assert not AffinityGroup.objects.exists()


@pytest.mark.parametrize("typed", [{"name": "Сайт", "policy": "apart"}, {"name": "web", "policy": "near"}, {}])
def test_what_is_no_group_is_said_and_not_made(operator: Browser, typed: dict[str, str]) -> None:
    answer = operator.press("/affinity-groups/new/", typed)
    assert (answer.status_code, '"level": "error"' in answer["HX-Trigger"]) == (200, True)
    assert not AffinityGroup.objects.exists()


def test_a_group_of_nodes_is_made_and_stays_while_a_node_is_in_it(operator: Browser, scene: Scene) -> None:
    operator.press("/node-groups/new/", {"name": "ssd", "title": "Fast"})
    group = NodeGroup.objects.get(name="ssd")
    operator.press(f"/nodes/{scene.node.pk}/edit/", {"group": group.pk})
    assert "ssd Fast n1 0" in text_of(operator.get("/groups/"))
    assert "n1 Fast " in text_of(operator.get("/nodes/"))
    assert "is in use" in operator.press(f"/node-groups/{group.pk}/remove/")["HX-Trigger"]
    operator.press(f"/nodes/{scene.node.pk}/edit/", {"group": ""})
    operator.press(f"/node-groups/{group.pk}/remove/")
    assert not NodeGroup.objects.exists()


def test_a_vm_joins_groups_on_its_own_page(operator: Browser, scene: Scene) -> None:
    vm = scene.running
    assert "There is no group yet" in text_of(operator.fragment(_groups(vm)))
    ssd = NodeGroup.objects.create(name="ssd")
    web = AffinityGroup.objects.create(name="web", tenant=vm.tenant, policy="apart", hard=True)
    assert "web: apart, strictly" in text_of(operator.fragment(_groups(vm)))
    operator.press(_groups(vm), {f"affinity-{web.pk}": "1", "group": ssd.pk})
    words = text_of(operator.get(f"/vms/{vm.pk}/"))
    assert "web each on another node, strictly" in words
    assert "ssd only on nodes of this group" in words
    refused = operator.press(_groups(scene.stopped), {f"affinity-{web.pk}": "1", "group": ""})
    assert "are not where the group web wants its VMs" in refused["HX-Trigger"]
    operator.press(_groups(vm), {"group": ""})
    assert "In none" in text_of(operator.get(f"/vms/{vm.pk}/"))


def test_a_tenant_chooses_groups_of_vms_and_hears_of_no_nodes(scene: Scene, people: dict[str, Person]) -> None:
    vm = scene.running
    Vm.objects.filter(pk=vm.pk).update(node_group=NodeGroup.objects.create(name="secret"))
    web = AffinityGroup.objects.create(name="web", tenant=vm.tenant, policy="apart", hard=True)
    owner = Browser(people["owner"])
    owner.press(_groups(vm), {f"affinity-{web.pk}": "1", "group": ""})
    assert Vm.objects.get(pk=vm.pk).node_group is not None
    for path in ("/groups/", f"/vms/{vm.pk}/", _groups(vm), "/vms/new/"):
        words = text_of(owner.get(path))
        assert "secret" not in words, path
        assert "web" in words, path
    assert owner.get("/node-groups/new/").status_code == 404
    assert owner.get("/affinity-groups/new/").status_code == 403


def test_the_form_of_a_vm_offers_groups_and_says_what_they_hinder(operator: Browser, scene: Scene) -> None:
    web = AffinityGroup.objects.create(name="web", tenant=scene.running.tenant, policy="apart", hard=True)
    web.vms.set([scene.running])
    typed = {"name": "shop", "source": "blank", "vcpus": "1", "memory": "128 MB", "tenant": scene.running.tenant_id}
    words = text_of(operator.post("/vms/new/check/", typed | {"affinity_group": web.pk}))
    assert "VM vm-running of group web is on n1, and the group keeps its VMs apart" in words
    assert "Can be created" in text_of(operator.post("/vms/new/check/", typed))


def test_the_page_of_a_node_shows_what_its_vms_have_and_changes_the_limits(operator: Browser, scene: Scene) -> None:
    page = f"/nodes/{scene.node.pk}/"
    assert "256 MiB of 15.5 GiB of 16 GiB the host keeps 512 MiB" in text_of(operator.get(page))
    assert "2 of 64 CPUs: 8, vCPUs for each: 8" in text_of(operator.get(page))
    asked = {"cpu_overcommit": "1,5", "memory_overcommit": "1.25", "memory_reserve_bytes": "2 GB"}
    assert "Saved" in operator.press(page + "edit/", asked)["HX-Trigger"]
    node = Node.objects.get(pk=scene.node.pk)
    assert (node.cpus_limit, node.memory_limit_bytes) == (12, 14 * GIB * 125 // 100)
    assert "the rest counts 1.25 times" in text_of(operator.get(page))


@pytest.mark.parametrize(
    "typed",
    [
        {"cpu_overcommit": "much"},
        {"cpu_overcommit": "65"},
        {"cpu_overcommit": "NaN"},
        {"memory_overcommit": ""},
        {"memory_reserve_bytes": "1"},
        {"memory_reserve_bytes": "17 GB"},
        {"group": "nobody"},
    ],
)
def test_what_is_no_limit_is_said_and_changes_nothing(operator: Browser, scene: Scene, typed: dict[str, str]) -> None:
    answer = operator.press(f"/nodes/{scene.node.pk}/edit/", typed)
    assert (answer.status_code, '"level": "error"' in answer["HX-Trigger"]) == (200, True)
    assert Node.objects.get(pk=scene.node.pk).version == scene.node.version


def _groups(vm: Vm) -> str:
    return f"/vms/{vm.pk}/groups/"
