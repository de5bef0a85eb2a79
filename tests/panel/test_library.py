"""Images and ISOs that the panel keeps: how nodes get them, what a deletion asks, and what the page shows."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cluster import library as files
from cluster import reconcile
from cluster.models import Disk, Image, ImageCopy, Iso, IsoCopy, Job, Node, Pool, Upload
from cluster.operations import dry_run, start
from cluster.refusals import Refused
from cluster.saga.engine import advance
from nodes.contract.messages import Envelope
from nodes.contract.specs import FileFacts
from tests.panel.browser import Browser, text_of
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor, Fault
from tests.panel.test_query_counts import node_like
from tests.people import Person
from web.enrolment import Enrolment

CONTENT = b"an image" * 300_000
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def image(library: Path, scene: Scene) -> Image:
    """On the panel, and on no node yet."""
    about = {"format": "raw", "virtual_size_bytes": len(CONTENT), "size_bytes": len(CONTENT), "checksum": CHECKSUM}
    image = Image.objects.create(name="debian.raw", stored=True, **about)
    library.mkdir()
    (library / image.pk).write_bytes(CONTENT)
    return image


def refusals(call: Callable[..., object], *args: object) -> list[str]:
    with pytest.raises(Refused) as refused:
        call(*args)
    return [reason.code for reason in refused.value.refusals]


def planned(scene: Scene, code: str, target: str, **params: Any) -> list[str]:
    return [reason.code for reason in dry_run(scene.actor, code, params, target).refusals]


def distribute(scene: Scene, image: Image, **params: Any) -> Job:
    return start(scene.actor, "image.distribute", params, image.pk).job


def run(scene: Scene, job: Job, fault: Fault | None = None, at: int = -1) -> Job:
    def broken(n: int, envelope: Envelope) -> Fault | None:
        return fault if n == at else None

    return Executor(world=scene.world, fault=broken).run(job)


# --- distribution ---------------------------------------------------------------------------------------------


def test_it_comes_to_every_node_that_is_online_and_has_none(scene: Scene, image: Image) -> None:
    second, third = (node_like(scene.node, name=f"n{n}", address=f"10.99.0.1{n}") for n in (2, 3))
    Node.objects.filter(pk=third.pk).update(state="offline")
    ImageCopy.objects.create(image=image, node=scene.node)
    job = run(scene, distribute(scene, image))
    assert job.state == "succeeded"
    (message,) = scene.world.messages
    assert (message.verb, message.body["name"], message.body["checksum"]) == ("file.fetch", "debian.raw", CHECKSUM)
    assert message.body["url"].endswith(f":8101/api/v1/files/{image.pk}/")
    assert set(image.copies.values_list("node", flat=True)) == {scene.node.pk, second.pk}


def test_a_node_that_is_away_or_unknown_or_full_is_refused_and_one_that_has_it_is_no_work(
    scene: Scene, image: Image
) -> None:
    assert planned(scene, "image.distribute", image.pk, nodes=["x" * 13]) == ["node_unknown"]
    away = node_like(scene.node, name="n2", address="10.99.0.12")
    Node.objects.filter(pk=away.pk).update(state="offline")
    assert planned(scene, "image.distribute", image.pk, nodes=[away.pk]) == ["node_offline"]
    Pool.objects.update(free_bytes=1000)
    assert planned(scene, "image.distribute", image.pk) == ["no_room"]
    ImageCopy.objects.create(image=image, node=scene.node)
    assert planned(scene, "image.distribute", image.pk) == ["copies_everywhere"]
    assert planned(scene, "image.distribute", image.pk, nodes=[scene.node.pk]) == ["copies_everywhere"]


def test_what_nodes_found_by_themselves_is_neither_distributed_nor_deleted(scene: Scene) -> None:
    assert "file_not_stored" in refusals(start, scene.actor, "image.distribute", {}, scene.image.pk)
    assert refusals(start, scene.actor, "image.delete", {}, scene.image.pk) == ["file_found"]


def test_when_one_node_fails_what_the_others_got_is_taken_back(scene: Scene, image: Image) -> None:
    node_like(scene.node, name="n2", address="10.99.0.12")
    job = run(scene, distribute(scene, image), "refused", at=1)
    assert job.state == "failed"
    assert not image.copies.exists()
    assert not [name for _node, name in scene.world.objects if name.startswith("file:")]


def test_the_inventory_shows_the_copy_and_only_the_marked_file_is_one(scene: Scene, image: Image) -> None:
    about = {"name": image.name, "format": "raw", "virtual_size_bytes": len(CONTENT), "modified": 0}
    for mark, size_bytes, is_copy in (
        ("", len(CONTENT), False),
        ("x" * 13, len(CONTENT), False),
        (image.pk, 1, False),
        (image.pk, len(CONTENT), True),
    ):
        seen = FileFacts(**about, size_bytes=size_bytes, mark=mark)
        reconcile._files(scene.node, [seen], Image, ImageCopy, "image")
        assert image.copies.exists() is is_copy, (mark, size_bytes)
        image.refresh_from_db()
        assert image.size_bytes == len(CONTENT)


# --- the listener -----------------------------------------------------------------------------------------------


@pytest.fixture
def token(scene: Scene, image: Image, redis_socket: Any, transactional_db: None) -> str:
    """Of a job that is under way."""
    job = distribute(scene, image)
    advance(job.pk)
    return files.token_for(job, image.pk)


async def get(pk: str, token: str, **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
    sent = {"authorization": f"Bearer {token}", **headers}
    encoded = [(name.encode(), value.encode()) for name, value in sent.items()]
    scope = {"type": "http", "path": f"/api/v1/files/{pk}/", "method": "GET", "headers": encoded, "client": ("n", 1)}
    communicator = ApplicationCommunicator(Enrolment(), scope)
    await communicator.send_input({"type": "http.request", "body": b""})
    begin = await communicator.receive_output()
    body, more = b"", True
    while more:
        piece = await communicator.receive_output()
        body, more = body + piece["body"], piece.get("more_body", False)
    return begin["status"], dict(begin["headers"]), body


async def test_a_node_gets_the_file_or_the_rest_of_it_by_the_token_of_its_job(image: Image, token: str) -> None:
    status, headers, body = await get(image.pk, token)
    assert (status, body == CONTENT) == (206, True)
    status, headers, body = await get(image.pk, token, range="bytes=2000000-")
    assert (status, body == CONTENT[2_000_000:]) == (206, True)
    whole = len(CONTENT)
    assert headers[b"content-range"] == f"bytes 2000000-{whole - 1}/{whole}".encode()
    for asked in (f"bytes={whole}-", "bytes=-5", "bytes=1-2", "lines=1-"):
        assert (await get(image.pk, token, range=asked))[0] == 416


async def test_nobody_else_gets_anything(image: Image, token: str, scene: Scene) -> None:
    assert (await get(image.pk, token[:-1]))[0] == 404
    assert (await get(image.pk, ""))[0] == 404
    assert (await get("x" * 13, token))[0] == 404
    assert (await get(f"../{image.pk}", token))[0] == 404
    assert (await get(image.pk, files.token_for(Job(pk="x" * 13), image.pk)))[0] == 404


async def test_the_token_ends_with_its_job(image: Image, token: str) -> None:
    await Job.objects.aupdate(state="succeeded")
    assert (await get(image.pk, token))[0] == 404


# --- deletion ---------------------------------------------------------------------------------------------------


def test_a_deletion_asks_every_node_and_leaves_nothing(
    scene: Scene, image: Image, library: Path, django_capture_on_commit_callbacks: Any
) -> None:
    run(scene, distribute(scene, image))
    with django_capture_on_commit_callbacks(execute=True):
        job = run(scene, start(scene.actor, "image.delete", {}, image.pk).job)
    assert job.state == "succeeded", job.error
    assert [message.verb for message in scene.world.messages] == ["file.fetch", "file.look", "file.delete"]
    assert not Image.objects.filter(pk=image.pk).exists()
    assert not list(library.iterdir())


def test_while_a_disk_rests_on_it_an_image_stays_and_says_so(scene: Scene, image: Image) -> None:
    disk = scene.stopped.disks.all()[0]
    Disk.objects.filter(pk=disk.pk).update(image=image)
    assert refusals(start, scene.actor, "image.delete", {}, image.pk) == ["file_has_disks"]
    iso = Iso.objects.create(name="a.iso", size_bytes=1, stored=True)
    Disk.objects.filter(pk=disk.pk).update(image=None, iso=iso)
    assert refusals(start, scene.actor, "iso.delete", {}, iso.pk) == ["file_has_disks"]


def test_what_a_node_says_of_a_user_that_the_panel_does_not_know_holds_the_deletion(scene: Scene, image: Image) -> None:
    run(scene, distribute(scene, image))
    scene.world.objects[scene.node.pk, "file:" + image.pk] = "copy used by web"
    job = run(scene, start(scene.actor, "image.delete", {}, image.pk).job)
    assert (job.state, job.error["code"]) == ("failed", "file_in_use")
    image.refresh_from_db()
    assert (image.state, image.copies.count()) == ("active", 1)


def test_a_deletion_that_one_node_refuses_brings_the_other_copies_back(scene: Scene, image: Image) -> None:
    node_like(scene.node, name="n2", address="10.99.0.12")
    run(scene, distribute(scene, image))
    first_delete = 2  # behind a question to each node
    job = run(scene, start(scene.actor, "image.delete", {}, image.pk).job, "refused", at=first_delete + 1)
    assert job.state == "failed"
    image.refresh_from_db()
    assert (image.state, image.copies.count()) == ("active", 2)
    assert [state for (_node, name), state in scene.world.objects.items() if name.startswith("file:")] == ["copy"] * 2


def test_from_an_image_that_goes_no_vm_begins(scene: Scene, image: Image) -> None:
    ImageCopy.objects.create(image=image, node=scene.node)
    Image.objects.filter(pk=image.pk).update(state="removing")
    asked = {
        "name": "new",
        "vcpus": 1,
        "memory_bytes": 128 << 20,
        "image": image.pk,
        "disks": [{"size_bytes": 1 << 30}],
    }
    assert refusals(start, scene.actor, "vm.create", asked) == ["file_going"]


def test_an_iso_that_goes_is_put_into_no_drive(scene: Scene) -> None:
    iso = Iso.objects.create(name="a.iso", size_bytes=1, stored=True, state="removing")
    IsoCopy.objects.create(iso=iso, node=scene.node)
    assert planned(scene, "vm.iso", scene.stopped.pk, iso=iso.pk) == ["file_going"]


def test_a_disk_that_was_begun_while_the_deletion_waited_holds_it(scene: Scene, image: Image) -> None:
    ImageCopy.objects.create(image=image, node=scene.node)
    scene.world.objects[scene.node.pk, "file:" + image.pk] = "copy"

    def begin(n: int, envelope: Envelope) -> None:
        if envelope.verb == "file.look":
            Disk.objects.filter(pk=scene.stopped.disks.all()[0].pk).update(image=image)

    job = start(scene.actor, "image.delete", {}, image.pk).job
    job = Executor(world=scene.world, before_answer=begin).run(job)
    assert (job.state, job.error["code"]) == ("failed", "file_has_disks")
    assert (scene.node.pk, "file:" + image.pk) in scene.world.objects


# --- the page ---------------------------------------------------------------------------------------------------


def test_the_page_shows_sizes_places_users_checksum_and_what_can_be_done(
    scene: Scene, image: Image, people: dict[str, Person]
) -> None:
    ImageCopy.objects.create(image=image, node=scene.node)
    Disk.objects.filter(pk=scene.stopped.disks.all()[0].pk).update(image=image)
    browser = Browser(people["administrator"])
    page = browser.get("/images/")
    words = text_of(page)
    assert "debian.raw" in words
    assert f"{scene.node.name} 1 {CHECKSUM[7:19]}…" in words
    assert "Disks of VMs are made from debian.raw" in page.content.decode()
    assert "every node" not in page.content.decode()
    assert "was put into the nodes&#x27; folders by hand" in page.content.decode()


def test_the_page_asks_the_database_as_often_for_many_images_as_for_one(
    scene: Scene, image: Image, people: dict[str, Person]
) -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert browser.get("/images/").status_code == 200
        return len(queries)

    browser = Browser(people["administrator"])
    ImageCopy.objects.create(image=image, node=scene.node)
    Upload.objects.create(kind="image", name="half.raw", size_bytes=2048, user=people["administrator"].user)
    few = asked()
    for number in range(5):
        about = {"format": "raw", "virtual_size_bytes": 1, "size_bytes": 1, "stored": number % 2 == 0}
        one = Image.objects.create(name=f"more{number}.raw", **about)
        node = node_like(scene.node, name=f"more{number}", address=f"10.99.1.{number}")
        ImageCopy.objects.create(image=one, node=node)
        ImageCopy.objects.create(image=image, node=node)
        Disk.objects.create(image=one, vm=scene.stopped, tenant=scene.stopped.tenant, position=9)
        Upload.objects.create(kind="image", name=f"{number}.raw", size_bytes=1, user=people["administrator"].user)
    assert asked() == few


def test_the_dialog_offers_the_nodes_that_have_no_copy(scene: Scene, image: Image, people: dict[str, Person]) -> None:
    second = node_like(scene.node, name="n2", address="10.99.0.12")
    ImageCopy.objects.create(image=image, node=scene.node)
    browser = Browser(people["administrator"])
    page = browser.get(f"/images/{image.pk}/do/distribute/").content.decode()
    assert f'value="{second.pk}"' in page
    assert f'value="{scene.node.pk}"' not in page
    browser.post(f"/images/{image.pk}/do/distribute/", {"nodes": second.pk})
    assert Job.objects.get(operation="image.distribute").data["nodes"] == [second.pk]


def test_unfinished_uploads_are_shown_with_how_far_they_are(
    scene: Scene, library: Path, people: dict[str, Person]
) -> None:
    upload = Upload.objects.create(kind="iso", name="half.iso", size_bytes=2048, user=people["administrator"].user)
    library.mkdir()
    (library / f"{upload.pk}.part").write_bytes(bytes(1024))
    words = text_of(Browser(people["administrator"]).get("/isos/"))
    assert "half.iso 50" in words.replace("%", "") or "1 KiB of 2 KiB" in words.replace("\u00a0", " ")
    assert "half.iso" not in text_of(Browser(people["read_only"]).get("/isos/"))


def test_a_tenant_sees_what_there_is_but_not_where(scene: Scene, image: Image, people: dict[str, Person]) -> None:
    ImageCopy.objects.create(image=image, node=scene.node)
    IsoCopy.objects.create(iso=Iso.objects.create(name="a.iso", size_bytes=1), node=scene.node)
    browser = Browser(people["owner"])
    assert "debian.raw" in text_of(browser.get("/images/"))
    assert "a.iso" in text_of(browser.get("/isos/"))
    for address in ("/images/", "/isos/"):
        assert f">{scene.node.name}<" not in browser.get(address).content.decode()
        assert "data-upload" not in browser.get(address).content.decode()
