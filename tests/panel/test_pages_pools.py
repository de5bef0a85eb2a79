"""Storage pools on pages: how full, of what grain, what is wrong, and the disks that fill them."""

import re

import pytest

from cluster import reconcile
from cluster.models import Disk, Node, Pool, PoolOnNode, Vm
from nodes.contract.messages import Inventory
from nodes.contract.sizes import GIB, MIB
from nodes.contract.specs import NodeFacts, PoolFacts, PoolOffer
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene
from tests.people import Person

GROUP = {"extent_bytes": 4 * MIB, "extents_total": 2560, "extents_free": 640, "stripes": 2}


@pytest.fixture
def browser(scene: Scene, people: dict[str, Person]) -> Browser:
    return Browser(people["administrator"])


def add_pool(scene: Scene, **changes: object) -> Pool:
    about = {"name": "fast", "kind": "lvm", "identity": "vg-1", "path": "vg0", "attached": True}
    numbers = {"capacity_bytes": 10 * GIB, "free_bytes": 5 * GIB, "granules": {"raw": 8 * MIB}, "facts": GROUP}
    pool = Pool.objects.create(**{**about, **numbers, **changes})
    PoolOnNode.objects.create(pool=pool, node=scene.node)
    return pool


def test_the_list_says_how_full_a_pool_is_and_of_what_grain(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene)
    page = browser.get("/pools/")
    words = text_of(page)
    assert "fast LVM · vg0" in words
    assert "50 % · 5 GiB free of 10 GiB" in words
    assert "PE 4 MiB × 2 stripes 640 of 2560 extents free" in words
    assert 'data-live="pools"' in page.content.decode()
    assert f'data-versions="pool:{pool.pk}=1"' in page.content.decode()


def test_a_path_may_break_after_its_slashes_and_is_data(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene, kind="directory", path="/srv/<b>disks", facts={})
    for address in ("/pools/", f"/pools/{pool.pk}/"):
        assert "/<wbr>srv/<wbr>&lt;b&gt;disks" in browser.get(address).content.decode()


def test_a_pool_above_its_level_is_warned_of_in_words_on_pages_and_in_the_api(
    browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    pool = add_pool(scene, free_bytes=GIB)
    for path in ("/pools/", f"/pools/{pool.pk}/"):
        assert "90 % is in use; the warning level is 85 %" in text_of(browser.get(path))
    assert "no disk is made and none grows" in text_of(browser.get(f"/pools/{pool.pk}/"))
    row = Api(people["administrator"].token).get(f"pools/{pool.pk}/").json()
    assert row["warning_percent"] == 85
    assert [(line["code"], line["level"]) for line in row["warnings"]] == [("space", "warning")]
    assert "90 % is in use" in row["warnings"][0]["text"]


def test_either_part_of_a_thin_pool_can_be_full_and_full_is_a_failure(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene, kind="lvmthin", facts=GROUP | {"data_percent": 42.5, "metadata_percent": 100.0})
    words = text_of(browser.get(f"/pools/{pool.pk}/"))
    assert "Data 42.5 %" in words
    assert "Metadata 100 %" in words
    assert "failure Metadata 100 % is in use" in words
    assert "lvextend --poolmetadatasize" in words
    assert "meter-full" in browser.get("/pools/").content.decode()


def test_a_pool_out_of_reach_says_so_and_that_its_numbers_are_old(browser: Browser, scene: Scene) -> None:
    add_pool(scene, facts={"problem": "pool_unreachable"})
    words = text_of(browser.get("/pools/"))
    assert "Cannot be used now: the pool does not answer; the numbers are those of before" in words


def test_the_disks_of_a_pool_come_in_pages_with_the_largest_first(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene)
    sizes = [number * MIB for number in range(1, 121)]
    Disk.objects.bulk_create(
        Disk(vm=scene.running, tenant=scene.running.tenant, pool=pool, size_bytes=size, state="ready") for size in sizes
    )
    path, seen = f"/pools/{pool.pk}/", []
    while path:
        page = browser.get(path).content.decode()
        seen += re.findall(r'class="mono">([a-z2-7]{13})</span></td>', page)
        further = re.search(r'rel="next" href="([^"]+)"', page)
        path = f"/pools/{pool.pk}/{further[1]}" if further else ""
    assert seen == list(Disk.objects.filter(pool=pool).order_by("-size_bytes", "pk").values_list("pk", flat=True))


def test_a_pool_is_removed_from_its_page_and_one_with_disks_says_why_not(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene)
    assert f'href="/pools/{pool.pk}/do/remove/"' in browser.get(f"/pools/{pool.pk}/").content.decode()
    assert browser.press(f"/pools/{pool.pk}/do/remove/")["HX-Redirect"].startswith("/jobs/")
    pool = scene.pool
    assert "p1 has disks in it: 4" in text_of(browser.get(f"/pools/{pool.pk}/do/remove/"))


def test_without_storage_the_page_says_what_to_do_next(browser: Browser) -> None:
    PoolOnNode.objects.all().delete()
    Disk.objects.all().delete()
    Pool.objects.all().delete()
    assert "First add a node" in text_of(browser.get("/pools/"))


def test_the_key_of_a_ceph_pool_is_on_no_page(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene, kind="rbd", monitors=["10.0.0.1:6789"], user="ulei", key="sealed-secret", facts={})
    for path in ("/pools/", f"/pools/{pool.pk}/"):
        assert "sealed-secret" not in browser.get(path).content.decode()
    assert "10.0.0.1:6789" in text_of(browser.get(f"/pools/{pool.pk}/"))


# --- adding one

OFFER = {
    "kind": "lvm",
    "path": "vg0",
    "identity": "vg-uuid",
    "capacity_bytes": 10 * GIB,
    "free_bytes": 4 * GIB,
    "extent_bytes": 4 * MIB,
    "extents_total": 2560,
    "extents_free": 1024,
    "most_stripes": 2,
}

NODE_FACTS = NodeFacts(
    hostname="n1",
    cpus=8,
    memory_bytes=16 * GIB,
    cpu_model="EPYC",
    virt_type="qemu",
    libvirt_version="9.0.0",
    qemu_version="7.2.22",
    host_uuid="6f0c1b1e-0000-4000-8000-000000000001",
    bridges=("br0",),
)


@pytest.fixture
def offering(scene: Scene) -> Scene:
    Node.objects.filter(pk=scene.node.pk).update(offers=[OFFER])
    scene.node.refresh_from_db()
    return scene


def typed(scene: Scene, **changes: object) -> dict[str, object]:
    return {"node": scene.node.pk, "place": "lvm:vg0", "name": "fast", **changes}


def test_what_a_node_offers_is_kept_of_its_report_and_shown_to_choose_from(browser: Browser, offering: Scene) -> None:
    words = text_of(browser.get(f"/pools/new/?node={offering.node.pk}"))
    assert "Volume group vg0 4 GiB free of 10 GiB · PE 4 MiB · 1024 of 2560 extents free · 2 physical volumes" in words
    assert "Choose what to make a pool of" in words


def test_a_report_brings_what_a_node_offers_and_how_full_its_pools_are(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene, identity="vg-9")
    facts = PoolFacts(
        kind="lvm",
        identity="vg-9",
        path="vg0",
        capacity_bytes=10 * GIB,
        free_bytes=GIB // 2,
        granules={"raw": 4 * MIB},
        problem="pool_unreachable",
    )
    report = Inventory(
        incarnation=1,
        counter=1,
        facts=NODE_FACTS,
        checks=(),
        domains=(),
        pools=(facts,),
        offers=(PoolOffer.model_validate(OFFER),),
        images=(),
        isos=(),
    )
    reconcile.inventory(scene.node, report, None)
    assert "Volume group vg0" in text_of(browser.get("/pools/new/"))
    assert "95 % is in use" in text_of(browser.get("/pools/"))
    assert Pool.objects.get(pk=pool.pk).version == pool.version + 1
    reconcile.inventory(scene.node, report, None)
    assert Pool.objects.get(pk=pool.pk).version == pool.version + 1


def test_a_guest_that_stands_still_names_the_pool_that_is_full_until_it_has_room_but_not_to_a_tenant(
    browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    full = {"data_percent": 100.0, "metadata_percent": 12.0}
    pool = add_pool(scene, kind="lvmthin", path="vg0/thin", identity="t-1", facts=GROUP | full)
    vm = scene.running
    Disk.objects.filter(vm=vm).update(pool=pool)
    tenant = people["tenant_administrator"].actor.grant.tenant
    Vm.objects.filter(pk=vm.pk).update(state="paused", state_reason="io_error", tenant=tenant)

    def reason(name: str) -> dict[str, str]:
        found: dict[str, str] = Api(people[name].token).get(f"vms/{vm.pk}/").json()["state_reason"]
        return found

    said = reason("administrator")
    assert (said["code"], said["cause"]) == ("state_thin_pool_full", "paused: thin pool fast is full")
    assert "lvextend --size +10g vg0/thin" in said["hint"]
    card = browser.get(f"/vms/{vm.pk}/").content.decode()
    assert "Paused: thin pool fast is full" in card
    assert "The guest stands still and has lost nothing." in card
    assert reason("tenant_administrator")["code"] == "state_io_error"

    Pool.objects.filter(pk=pool.pk).update(facts=GROUP | {"data_percent": 50.0, "metadata_percent": 100.0})
    assert "lvextend --poolmetadatasize +64m vg0/thin" in reason("administrator")["hint"]
    Pool.objects.filter(pk=pool.pk).update(kind="directory", path="/srv/disks", facts={}, free_bytes=0)
    said = reason("administrator")
    assert (said["code"], said["cause"]) == ("state_pool_full", "paused: pool fast has no room left")
    assert "/srv/disks" in said["hint"]

    # Its card is open somewhere: that the pool has room again changes what it says.
    version = Vm.objects.get(pk=vm.pk).version
    roomy = PoolFacts(
        kind="directory",
        identity="t-1",
        path="/srv/disks",
        capacity_bytes=10 * GIB,
        free_bytes=GIB,
        granules={"raw": 4 * MIB},
    )
    report = {"incarnation": 1, "counter": 1, "checks": (), "domains": (), "images": (), "isos": ()}
    reconcile.inventory(scene.node, Inventory(facts=NODE_FACTS, pools=(roomy,), **report), None)
    assert Vm.objects.get(pk=vm.pk).version == version + 1
    assert reason("administrator")["code"] == "state_io_error"


def test_a_thin_pool_that_lets_writes_wait_is_warned_of_with_the_way_out(browser: Browser, scene: Scene) -> None:
    parts = {"data_percent": 5.0, "metadata_percent": 1.0}
    pool = add_pool(scene, kind="lvmthin", path="vg0/thin", facts=GROUP | parts | {"queues_when_full": True})
    assert "lvchange --errorwhenfull y vg0/thin" in text_of(browser.get(f"/pools/{pool.pk}/"))
    Pool.objects.filter(pk=pool.pk).update(facts=GROUP | parts | {"queues_when_full": False})
    assert "errorwhenfull" not in text_of(browser.get(f"/pools/{pool.pk}/"))


def test_a_report_about_a_pool_that_is_just_being_added_makes_no_second_one(scene: Scene) -> None:
    adding = scene.start("pool.add").subject
    facts = {"kind": adding.kind, "path": adding.path, "capacity_bytes": GIB, "free_bytes": GIB}
    seen = PoolFacts(identity="what its job has not yet noted", granules={"raw": 4 * MIB}, **facts)
    report = {
        "incarnation": 1,
        "counter": 1,
        "facts": NODE_FACTS,
        "checks": (),
        "domains": (),
        "images": (),
        "isos": (),
    }
    known = Pool.objects.count()
    reconcile.inventory(scene.node, Inventory(pools=(seen,), **report), None)
    assert Pool.objects.count() == known


def test_a_pool_is_made_of_what_was_chosen(browser: Browser, offering: Scene) -> None:
    answer = browser.post("/pools/new/", typed(offering, stripes="2"))
    assert answer.status_code == 302
    pool = Pool.objects.get(name="fast")
    assert (pool.kind, pool.path, pool.stripes, pool.state) == ("lvm", "vg0", 2, "adding")


def test_the_check_says_what_each_node_shows_and_the_sizes_that_disks_will_have(
    browser: Browser, offering: Scene
) -> None:
    other = Node.objects.create(name="n2", address="10.99.0.12", state="online", redis_password_sha256="1" * 64)
    words = text_of(browser.press("/pools/new/check/", typed(offering, stripes="2", nodes=[other.pk], name="")))
    assert "All that is missing is a name" in words
    assert "n1 4 GiB free of 10 GiB sizes of disks: multiples of 4 MiB × 2" in words
    assert "n2 nothing, as far as its last report goes" in words
    assert not Pool.objects.filter(name="fast").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stripes": "3"}, "vg0 has 2 physical volumes: no volume can lie over 3"),
        ({"stripes": "many"}, "A whole number"),
        ({"name": "p1"}, "A pool named p1 exists"),
        ({"name": "Быстрое"}, "a to z, digits and hyphens"),
        ({"place": "directory", "path": "disks"}, "Disks is not a whole path"),
        ({"place": "directory"}, "Fill in the fields marked with a star"),
        ({"place": "rbd", "ceph_pool": "volumes", "user": "ulei", "key": "k"}, "Fill in the fields marked with a star"),
        ({"place": "rbd", "ceph_pool": "v", "user": "u", "key": "k", "monitors": "a b;c"}, "Addresses with ports"),
    ],
)
def test_what_cannot_be_added_is_said_before_it_is_tried(
    changes: dict[str, str], words: str, browser: Browser, offering: Scene
) -> None:
    assert words in text_of(browser.press("/pools/new/check/", typed(offering, **changes)))
    tried = browser.post("/pools/new/", typed(offering, **changes))
    assert tried.status_code in (409, 422)
    assert Pool.objects.count() == 1


def test_what_is_a_pool_already_cannot_be_chosen_and_is_refused(
    browser: Browser, offering: Scene, people: dict[str, Person]
) -> None:
    pool = add_pool(offering, identity="vg-uuid")
    page = browser.get("/pools/new/")
    assert "is the pool fast already" in text_of(page)
    assert re.search(r'value="lvm:vg0"\s+disabled', page.content.decode())
    answer = browser.post("/pools/new/", typed(offering, name="again"))
    assert "What is at vg0 is the pool fast already" in text_of(answer)
    [offer] = Api(people["administrator"].token).get(f"nodes/{offering.node.pk}/").json()["offers"]
    assert (offer["path"], offer["pool"]) == ("vg0", pool.pk)


def test_a_ceph_key_that_was_typed_is_not_sent_back(browser: Browser, scene: Scene) -> None:
    secret = {"place": "rbd", "ceph_pool": "volumes", "monitors": "10.0.0.1:6789", "user": "ulei", "key": "A0secret=="}
    answer = browser.post("/pools/new/", typed(scene, **secret, name="p1"))
    assert answer.status_code == 409
    assert "A0secret" not in answer.content.decode()
    assert "A0secret" not in browser.press("/pools/new/check/", typed(scene, **secret)).content.decode()


def test_a_node_that_offers_nothing_says_what_to_do_next(browser: Browser, scene: Scene) -> None:
    assert "n1 shows no LVM volume groups. Make one there (vgcreate)" in text_of(browser.get("/pools/new/"))
    Node.objects.update(redis_password_sha256="")
    assert "Storage is seen by nodes: add one first." in text_of(browser.get("/pools/new/"))
