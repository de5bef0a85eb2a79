"""Images and ISOs that nodes bring to the library: downloaded by URL, or made of a disk."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.test import override_settings

from cluster import library as files
from cluster import uploads
from cluster.models import Disk, Image, ImageCopy, Iso, Job, Node, Upload
from cluster.operations import dry_run, start
from cluster.refusals import Refused
from cluster.saga.engine import advance
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene, disk_of_able_node, loose_disk
from tests.panel.engine.world import Executor, content_of
from tests.panel.test_query_counts import node_like
from tests.people import Person
from web.enrolment import Enrolment

URL = "https://example.org/pub/debian.qcow2?key=secret"
CONTENT = b"an image" * 300_000
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


def planned(scene: Scene, code: str, target: str | None = None, **params: Any) -> list[str]:
    return [reason.code for reason in dry_run(scene.actor, code, params, target).refusals]


def run(scene: Scene, job: Job, **how: Any) -> Job:
    return Executor(world=scene.world, **how).run(job)


def sent(scene: Scene, verb: str) -> dict[str, Any]:
    return next(message.body for message in scene.world.messages if message.verb == verb)


# --- by URL -------------------------------------------------------------------------------------------------


def test_a_downloaded_image_is_one_of_the_library_and_of_the_node_that_fetched_it(scene: Scene, library: Path) -> None:
    second = node_like(scene.node, name="n2", address="10.99.0.12")
    params = {"url": URL, "os": "debian-12", "checksum": "A" * 64, "node": second.pk}
    job = start(scene.actor, "image.download", params).job
    image = Image.objects.get(name="debian.qcow2")
    assert (image.state, image.os, job.subject) == ("adding", "debian-12", "image:" + image.pk)
    job = run(scene, job)
    assert job.state == "succeeded", job.error
    image.refresh_from_db()
    content = content_of("image")
    assert (image.state, image.stored, image.format, image.size_bytes) == ("active", True, "qcow2", len(content))
    assert list(image.copies.values_list("node", flat=True)) == [second.pk]
    assert (library / image.pk).read_bytes() == content
    asked = sent(scene, "file.download")
    assert (asked["url"], asked["checksum"]) == (URL, "sha256:" + "a" * 64)
    assert asked["most_bytes"] == settings.INSTALLATION.upload_most_bytes
    assert planned(scene, "image.distribute", image.pk) == []


def test_the_address_is_a_secret_that_ends_with_the_job(scene: Scene) -> None:
    job = start(scene.actor, "image.download", {"url": URL}).job
    assert "url" not in job.params
    assert "secret" not in str(job.data)
    job = run(scene, job)
    assert (job.state, job.secrets) == ("succeeded", "")


def test_what_cannot_be_downloaded_is_refused_at_once(scene: Scene, people: dict[str, Person]) -> None:
    def said(**params: Any) -> list[str]:
        return planned(scene, "image.download", **params)

    assert said(url="ftp://example.org/a.qcow2") == ["url_unfit"]
    assert said(url="http://me@example.org/a.qcow2") == ["url_unfit"]
    assert said(url="https://example.org/") == ["name_needed"]
    assert said(url="https://example.org/.a.qcow2") == ["name_needed"]
    assert said(url="https://example.org/a.iso") == ["file_suffix"]
    assert said(url="https://example.org/", name="a.raw", os="beos") == ["os_unknown"]
    assert said(url=URL, name=scene.image.name) == ["file_name_taken"]
    Upload.objects.create(kind="image", name="half.raw", size_bytes=1, user=scene.actor.user)
    assert said(url="https://example.org/half.raw") == ["upload_under_way"]
    assert said(url=URL, node="x" * 13) == ["node_unknown"]
    Node.objects.update(state="offline")
    assert said(url=URL) == ["no_node_online"]
    assert said(url=URL, node=scene.node.pk) == ["node_offline"]


def test_the_networks_of_the_installation_travel_with_the_message(scene: Scene) -> None:
    changes = {"download_networks": "10.1.0.0/16,fd00::/8"}
    with override_settings(INSTALLATION=settings.INSTALLATION.model_copy(update=changes)):
        run(scene, start(scene.actor, "iso.download", {"url": "https://mirror.lan/a.iso"}).job)
    assert sent(scene, "file.download")["networks"] == ["10.1.0.0/16", "fd00::/8"]
    assert Iso.objects.get(name="a.iso").state == "active"


def test_what_fails_leaves_neither_a_row_nor_a_file(
    scene: Scene, library: Path, django_capture_on_commit_callbacks: Any
) -> None:
    for at in (0, 1):
        with django_capture_on_commit_callbacks(execute=True):
            job = start(scene.actor, "image.download", {"url": URL}).job
            job = run(scene, job, fault=lambda n, envelope, at=at: "refused" if n == at else None)
        assert job.state == "failed"
        assert not Image.objects.filter(name="debian.qcow2").exists()
        assert not list(library.glob("*"))
        assert not [name for _node, name in scene.world.objects if name.startswith("file:")]


def test_a_file_that_is_no_image_is_refused_by_the_panel_whatever_the_node_says(
    scene: Scene, library: Path, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    monkeypatch.setattr("tests.panel.engine.world.content_of", lambda kind: b"QFI\xfb" + bytes(4096))
    with django_capture_on_commit_callbacks(execute=True):
        job = run(scene, start(scene.actor, "image.download", {"url": URL}).job)
    assert (job.state, job.error["code"]) == ("failed", "image_damaged")
    assert not Image.objects.filter(name="debian.qcow2").exists()
    assert not list(library.glob("*"))


def test_while_it_comes_an_image_is_neither_used_nor_distributed_nor_deleted_and_its_name_is_taken(
    scene: Scene,
) -> None:
    image = start(scene.actor, "image.download", {"url": URL}).subject
    assert planned(scene, "image.distribute", image.pk)[0] == "file_coming"
    assert planned(scene, "image.delete", image.pk) == ["file_coming"]
    asked = {"name": "new", "vcpus": 1, "memory_bytes": 128 << 20, "disks": [{"size_bytes": 1 << 30}]}
    assert "file_coming" in planned(scene, "vm.create", None, **asked, image=image.pk)
    assert planned(scene, "image.download", url=URL) == ["file_name_taken"]
    with pytest.raises(Refused, match="file_name_taken"):
        uploads.begin(scene.actor, "image", "debian.qcow2", 1)
    iso = start(scene.actor, "iso.download", {"url": "https://example.org/a.iso"}).subject
    assert planned(scene, "vm.iso", scene.stopped.pk, iso=iso.pk) == ["file_coming"]


def test_a_download_is_begun_at_its_own_address_beside_that_of_uploads(scene: Scene, people: dict[str, Person]) -> None:
    api = Api(people["administrator"].token)
    answer = api.post("images/download/", {"url": URL})
    assert answer.status_code == 202
    assert answer.json()["image"] == {"id": Image.objects.get(name="debian.qcow2").pk}
    assert api.post("images/", {"name": "other.qcow2", "size_bytes": 1}).status_code == 201
    assert api.get("images/").json()["results"][0]["state"] == "adding"
    assert Api(people["owner"].token).post("images/download/", {"url": URL}).status_code == 403


# --- of a disk ------------------------------------------------------------------------------------------------


def test_an_image_of_a_disk_is_generalised_and_kept_by_panel_and_node(scene: Scene, library: Path) -> None:
    disk = Disk.objects.get(pk=disk_of_able_node(scene))
    scene.stopped.os = "debian-12"
    scene.stopped.save()
    job = run(scene, start(scene.actor, "disk.image", {"name": "golden"}, disk.pk).job)
    assert job.state == "succeeded", job.error
    image = Image.objects.get(name="golden.qcow2")
    assert (image.state, image.stored, image.os) == ("active", True, "debian-12")
    assert [copy.node_id for copy in image.copies.all()] == [scene.node.pk]
    asked = sent(scene, "file.make")
    assert (asked["source"]["id"], asked["generalise"]) == (disk.pk, True)


def test_only_a_disk_on_which_no_guest_runs_becomes_an_image(scene: Scene) -> None:
    def said(disk: Disk, **params: Any) -> list[str]:
        return planned(scene, "disk.image", disk.pk, name="golden", **params)

    disk_of_able_node(scene)
    assert said(scene.running.disks.all()[0]) == ["state"]
    loose = Disk.objects.get(pk=loose_disk(scene))
    assert said(loose) == []
    Disk.objects.filter(pk=loose.pk).update(state="creating")
    assert said(loose) == ["disk_not_ready"]


def test_a_node_that_cannot_look_into_images_makes_them_only_as_they_are(scene: Scene) -> None:
    disk = scene.stopped.disks.all()[0]
    Node.objects.update(checks=[{"code": "guestfs", "level": "warning", "facts": {"lacks": "package"}}])
    assert planned(scene, "disk.image", disk.pk, name="golden") == ["no_guestfs"]
    assert planned(scene, "disk.image", disk.pk, name="golden", generalise=False) == []
    run(scene, start(scene.actor, "disk.image", {"name": "golden", "generalise": False}, disk.pk).job)
    assert "generalise" not in sent(scene, "file.make")


def test_a_vm_that_was_started_while_the_job_waited_keeps_its_disk_to_itself(scene: Scene) -> None:
    disk = Disk.objects.get(pk=disk_of_able_node(scene))
    first = start(scene.actor, "vm.start", {}, scene.stopped.pk).job
    second = start(scene.actor, "disk.image", {"name": "golden"}, disk.pk).job
    run(scene, first)
    second = run(scene, second)
    assert (second.state, second.error["code"]) == ("failed", "state")
    assert not Image.objects.filter(name="golden.qcow2").exists()


# --- the listener -----------------------------------------------------------------------------------------------


@pytest.fixture
def coming(scene: Scene, redis_socket: Any, transactional_db: None) -> Job:
    job = start(scene.actor, "image.download", {"url": URL}).job
    advance(job.pk)
    return job


async def put(job: Job, chunk: bytes, offset: int, way: files.Way = "put", **headers: str) -> tuple[int, bytes]:
    pk = job.subject.partition(":")[2]
    about = {"authorization": f"Bearer {files.token_for(job, pk, way)}", "upload-offset": str(offset)}
    about |= {"upload-length": str(len(CONTENT)), "upload-checksum": CHECKSUM}
    encoded = [(name.encode(), value.encode()) for name, value in {**about, **headers}.items()]
    scope = {"type": "http", "path": f"/api/v1/files/{pk}/", "method": "PUT", "headers": encoded, "client": ("n", 1)}
    communicator = ApplicationCommunicator(Enrolment(), scope)
    await communicator.send_input({"type": "http.request", "body": chunk})
    begin = await communicator.receive_output()
    return begin["status"], (await communicator.receive_output())["body"]


async def test_a_node_gives_a_file_in_chunks_and_is_told_where_to_go_on(coming: Job, library: Path) -> None:
    kept = library / coming.subject.partition(":")[2]
    assert await put(coming, b"", 0) == (200, b'{"received_bytes": 0}')
    assert await put(coming, CONTENT[:1000], 0) == (200, b'{"received_bytes": 1000}')
    status, said = await put(coming, b"", 0)
    assert status == 409
    assert b'"expected": 1000' in said
    assert not kept.exists()
    assert (await put(coming, CONTENT[1000:], 1000))[0] == 201
    assert kept.read_bytes() == CONTENT
    assert (await put(coming, b"", len(CONTENT)))[0] == 201
    status, said = await put(coming, b"more", len(CONTENT), **{"upload-length": str(len(CONTENT) + 4)})
    assert status == 409
    assert kept.read_bytes() == CONTENT


async def test_another_content_than_the_node_said_leaves_nothing(coming: Job, library: Path) -> None:
    status, said = await put(coming, CONTENT[::-1], 0)
    assert (status, b"checksum_differs" in said) == (422, True)
    assert not list(library.iterdir())


async def test_the_token_of_a_node_is_good_for_one_way_and_for_an_open_job(coming: Job, library: Path) -> None:
    assert (await put(coming, b"x", 0, way="get"))[0] == 404
    assert (await put(Job(pk="x" * 13, subject=coming.subject), b"x", 0))[0] == 404
    assert (await put(coming, b"x", 0, **{"upload-length": "many"}))[0] == 400
    await Job.objects.aupdate(state="failed")
    assert (await put(coming, b"x", 0))[0] == 404
    assert not library.exists()


async def test_what_is_too_much_for_the_panel_is_refused(coming: Job, library: Path) -> None:
    status, said = await put(coming, b"", 0, **{"upload-length": str(1 << 59)})
    assert (status, b"upload_too_large" in said) == (422, True)
    changes = {"upload_most_bytes": 1 << 60}
    with override_settings(INSTALLATION=settings.INSTALLATION.model_copy(update=changes)):
        status, said = await put(coming, b"", 0, **{"upload-length": str(1 << 59)})
    assert (status, b"no_room_on_panel" in said) == (507, True)


# --- pages -------------------------------------------------------------------------------------------------------


def test_the_library_page_has_a_form_for_addresses_and_shows_what_is_on_its_way(
    scene: Scene, people: dict[str, Person]
) -> None:
    browser = Browser(people["administrator"])
    for noun, name in (("images", "debian.raw"), ("isos", "debian.iso")):
        assert f'href="/{noun}/download/"' in browser.get(f"/{noun}/").content.decode()
        assert "disabled" not in text_of(browser.get(f"/{noun}/download/"))
        typed = {"url": f"https://example.org/{'x' * 200}?{name}", "name": name, "checksum": "", "node": ""}
        browser.post(f"/{noun}/download/", typed)
        assert f"{name} Download by URL" in text_of(browser.get(f"/{noun}/"))
    assert "/images/download/" not in Browser(people["owner"]).get("/images/").content.decode()


def test_the_dialog_of_a_disk_ticks_generalising_only_where_the_node_can(
    scene: Scene, people: dict[str, Person]
) -> None:
    browser, disk = Browser(people["administrator"]), Disk.objects.get(pk=disk_of_able_node(scene))
    assert "checked" in browser.get(f"/disks/{disk.pk}/do/image/").content.decode()
    Node.objects.update(checks=[])
    page = browser.get(f"/disks/{disk.pk}/do/image/").content.decode()
    assert "checked" not in page
    assert "has no libguestfs" in page
    browser.post(f"/disks/{disk.pk}/do/image/", {"name": "golden"})
    assert ImageCopy.objects.filter(image__name="golden.qcow2").count() == 0
    assert Job.objects.get(operation="disk.image").params["generalise"] is False
