"""Uploads: chunk by chunk, gone on with after a cut, looked at before anything opens them, and cleaned up after."""

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings
from django.utils import timezone

from cluster import audit, reconcile, uploads
from cluster.models import AuditEvent, Image, Iso, Upload
from nodes.contract.specs import FileFacts
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene

BINARY = {"Content_Type": "application/octet-stream"}
ISO = bytes(32769) + b"CD001" + bytes(4096)
CHECKSUM = "sha256:" + hashlib.sha256(ISO).hexdigest()


@pytest.fixture
def client(library: Path, scene: Scene, api: Callable[[str], Api]) -> Api:
    return api("administrator")


def begin(client: Api, noun: str = "isos", **said: Any) -> Any:
    return client.post(f"{noun}/", {"name": "some.iso", "size_bytes": len(ISO), **said})


def send(client: Api, upload: str, chunk: bytes, offset: int = 0) -> Any:
    return client.ask("PUT", f"uploads/{upload}/?offset={offset}", chunk, **BINARY)


def begun(client: Api, noun: str = "isos", **said: Any) -> str:
    answer = begin(client, noun, **said)
    assert answer.status_code == 201, answer.json()
    return str(answer.json()["id"])


def code(answer: Any) -> str:
    return str(answer.json()["code"])


@pytest.mark.parametrize("promised", ["", CHECKSUM, CHECKSUM.removeprefix("sha256:").upper()])
def test_an_iso_comes_in_chunks_and_is_there_under_the_id_of_its_upload(
    promised: str, client: Api, library: Path
) -> None:
    upload = begun(client, checksum=promised)
    assert (library / upload).exists() is False
    first = send(client, upload, ISO[:10_000])
    assert (first.status_code, first.json()["received_bytes"], first.json()["complete"]) == (200, 10_000, False)
    assert client.get("isos/").json()["results"] == []
    last = send(client, upload, ISO[10_000:], 10_000)
    assert (last.status_code, last.json()["complete"]) == (201, True)
    assert last["Location"] == f"/api/v1/isos/{upload}/"
    seen = client.get(f"isos/{upload}/").json()
    assert (seen["state"], seen["checksum"], seen["size_bytes"]) == ("stored", CHECKSUM, len(ISO))
    assert (library / upload).read_bytes() == ISO
    assert [path.name for path in library.iterdir()] == [upload]
    assert client.get(f"uploads/{upload}/").status_code == 404
    assert AuditEvent.objects.get(action="image.add").outcome == "done"


def test_an_image_knows_its_virtual_size(client: Api, tmp_path: Path) -> None:
    path = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"], check=True)
    upload = begun(client, "images", name="debian.img", size_bytes=path.stat().st_size, os="debian-12")
    assert send(client, upload, path.read_bytes()).status_code == 201
    image = Image.objects.get(pk=upload)
    assert (image.format, image.virtual_size_bytes, image.os) == ("qcow2", 64 << 20, "debian-12")


def test_after_a_cut_the_upload_says_where_to_go_on_and_a_wrong_offset_is_refused_with_the_right_one(
    client: Api, library: Path
) -> None:
    upload = begun(client)
    send(client, upload, ISO[:100])
    for offset in (0, 50, 101):
        wrong = send(client, upload, ISO[offset:], offset)
        assert (wrong.status_code, code(wrong)) == (409, "upload_wrong_offset")
        assert "byte 100" in wrong.json()["detail"]
        assert "byte 100" in wrong.json()["hint"]
    assert client.get(f"uploads/{upload}/").json()["received_bytes"] == 100
    assert send(client, upload, ISO[100:], 100).status_code == 201


def test_a_chunk_beyond_the_promised_end_is_refused_and_leaves_nothing(client: Api, library: Path) -> None:
    upload = begun(client)
    send(client, upload, ISO[:100])
    assert code(send(client, upload, ISO, 100)) == "upload_too_long"
    assert (library / f"{upload}.part").read_bytes() == ISO[:100]


def test_one_chunk_at_a_time_is_taken(client: Api, library: Path) -> None:
    upload = begun(client)
    send(client, upload, ISO[:100])
    with (library / f"{upload}.part").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert code(send(client, upload, ISO[100:], 100)) == "upload_busy"
        assert code(client.ask("DELETE", f"uploads/{upload}/")) == "upload_busy"
        uploads.forget_abandoned()
    assert send(client, upload, ISO[100:], 100).status_code == 201


def test_a_panel_that_died_between_the_last_chunk_and_its_row_finishes_when_asked_again(
    client: Api, library: Path
) -> None:
    for name in ("{}.part", "{}"):
        upload = begun(client, name=f"{len(name)}.iso")
        library.mkdir(exist_ok=True)
        (library / name.format(upload)).write_bytes(ISO)
        assert client.get(f"uploads/{upload}/").json()["received_bytes"] == len(ISO)
        assert send(client, upload, b"", len(ISO)).status_code == 201
        assert (library / upload).read_bytes() == ISO


def test_a_wrong_checksum_is_refused_and_the_file_is_deleted(client: Api, library: Path) -> None:
    upload = begun(client, checksum="sha256:" + "0" * 64)
    refused = send(client, upload, ISO)
    assert (refused.status_code, code(refused)) == (422, "checksum_differs")
    assert CHECKSUM in refused.json()["detail"]
    assert not list(library.iterdir())
    assert not Upload.objects.exists()
    assert not Iso.objects.exists()
    assert AuditEvent.objects.get(action="image.add").outcome == "refused"


def test_an_image_that_rests_on_a_file_of_the_panel_is_refused_and_deleted(
    client: Api, library: Path, tmp_path: Path
) -> None:
    path = tmp_path / "evil"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
    rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", str(path)]
    subprocess.run(rebase, check=True)
    upload = begun(client, "images", name="evil.qcow2", size_bytes=path.stat().st_size)
    assert code(send(client, upload, path.read_bytes())) == "image_has_backing"
    assert not list(library.iterdir())
    assert not Upload.objects.exists()


def test_a_name_that_is_taken_or_says_nothing_is_refused(client: Api, scene: Scene) -> None:
    begun(client)
    assert code(begin(client)) == "upload_under_way"
    assert code(begin(client, "images", name=scene.image.name)) == "file_name_taken"
    assert code(begin(client, name="some.exe")) == "file_suffix"
    assert code(begin(client, "images", name="some.iso")) == "file_suffix"
    for name in ("../some.iso", "a/b.iso", ".iso", ".hidden.iso", "-rf.iso", "a\n.iso", "ж" * 120 + ".iso", ""):
        assert begin(client, name=name).status_code == 400, name
    assert begin(client, name="ok.iso", os="plan9").json()["code"] == "os_unknown"
    assert begin(client, name="ok.iso", checksum="md5:1").status_code == 400
    assert begin(client, name="ok.iso", size_bytes=0).status_code == 400
    assert begin(client, name="Альт 10 (сервер).iso").status_code == 201


def test_a_name_that_a_node_brought_meanwhile_is_refused_and_the_upload_stays(client: Api) -> None:
    upload = begun(client)
    Iso.objects.create(name="some.iso", size_bytes=1)
    assert code(send(client, upload, ISO)) == "file_name_taken"
    Iso.objects.all().delete()
    assert send(client, upload, b"", len(ISO)).status_code == 201


def test_more_than_the_limit_or_the_room_is_refused_before_the_first_byte(client: Api, library: Path) -> None:
    changes = {"upload_most_bytes": 1000}
    with override_settings(INSTALLATION=settings.INSTALLATION.model_copy(update=changes)):
        assert code(begin(client, size_bytes=1001)) == "upload_too_large"
    changes = {"upload_most_bytes": 1 << 62}
    with override_settings(INSTALLATION=settings.INSTALLATION.model_copy(update=changes)):
        full = begin(client, size_bytes=1 << 60)
        assert (full.status_code, code(full)) == (507, "no_room_on_panel")
        library.mkdir(exist_ok=True)
        room = os.statvfs(library)
        half = room.f_bavail * room.f_frsize // 2
        begun(client, name="one.iso", size_bytes=half)
        assert code(begin(client, name="two.iso", size_bytes=half)) == "no_room_on_panel"


def test_a_chunk_that_is_too_large_or_no_plain_bytes_is_refused(client: Api) -> None:
    upload = begun(client)
    assert client.ask("PUT", f"uploads/{upload}/", bytes((16 << 20) + 1), **BINARY).status_code == 413
    assert client.ask("PUT", f"uploads/{upload}/", {"a": 1}).status_code == 415
    assert client.ask("PUT", f"uploads/{upload}/?offset=x", b"a", **BINARY).status_code == 400
    assert client.ask("PUT", f"uploads/{upload}/?start=1", b"a", **BINARY).status_code == 400


def test_an_upload_that_is_given_up_leaves_nothing(client: Api, library: Path) -> None:
    upload = begun(client)
    send(client, upload, ISO[:100])
    assert client.ask("DELETE", f"uploads/{upload}/").json()["received_bytes"] == 100
    assert not list(library.iterdir())
    assert send(client, upload, ISO[100:], 100).status_code == 404


def test_only_who_may_add_images_knows_of_uploads(client: Api, api: Callable[[str], Api]) -> None:
    upload = begun(client)
    for name, status in (("fabric", 200), ("vm_administrator", 403), ("owner", 404)):
        assert send(api(name), upload, b"").status_code == status
        assert begin(api(name), name=f"{name}.iso").status_code == (201 if status == 200 else 403)
    assert api("read_only").get("uploads/").status_code == 403


def test_what_nobody_goes_on_with_is_cleaned_up_after_a_day_and_strays_after_an_hour(
    client: Api, library: Path
) -> None:
    kept = begun(client, name="kept.iso")
    send(client, kept, ISO)
    left, fresh = begun(client, name="left.iso"), begun(client, name="fresh.iso")
    for upload in (left, fresh):
        send(client, upload, ISO[:100])
    Upload.objects.filter(pk=left).update(touched=timezone.now() - timedelta(hours=25))
    for name in ("gone", "young"):
        (library / f"{name}.part").touch()
    two_hours_ago = (timezone.now() - timedelta(hours=2)).timestamp()
    for name in (kept, "gone.part"):
        os.utime(library / name, (two_hours_ago, two_hours_ago))
    uploads.forget_abandoned()
    assert sorted(path.name for path in library.iterdir()) == sorted([kept, f"{fresh}.part", "young.part"])
    assert list(Upload.objects.values_list("pk", flat=True)) == [fresh]


def test_a_panel_that_was_put_back_from_a_backup_deletes_no_file_that_it_does_not_know(
    client: Api, library: Path
) -> None:
    library.mkdir(exist_ok=True)
    newer = library / "uploadedsince"
    newer.touch()
    two_hours_ago = (timezone.now() - timedelta(hours=2)).timestamp()
    os.utime(newer, (two_hours_ago, two_hours_ago))
    audit.restored(made="then")
    uploads.forget_abandoned()
    assert newer.exists()


def test_a_file_of_the_same_name_on_a_node_is_not_taken_for_the_one_that_was_uploaded(
    client: Api, scene: Scene
) -> None:
    upload = begun(client)
    send(client, upload, ISO)
    found = {"name": "some.iso", "format": "iso", "size_bytes": len(ISO), "virtual_size_bytes": len(ISO)}
    reconcile._files(scene.node, [FileFacts(**found, modified=0)], Iso, reconcile.IsoCopy, "iso")
    assert client.get(f"isos/{upload}/").json()["state"] == "stored"
    reconcile._files(scene.node, [], Iso, reconcile.IsoCopy, "iso")
    assert client.get(f"isos/{upload}/").json()["state"] == "stored"
