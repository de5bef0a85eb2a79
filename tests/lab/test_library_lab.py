"""The library on real parts: an uploaded image comes to every node, boots there, and goes when nobody needs it."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.node import IMAGES
from deploy.lab.processes import wait
from deploy.lab.state import LAB_ADDRESS
from tests.lab.conftest import Lab

CHUNK_BYTES = 4 << 20


@pytest.fixture
def content(lab: Lab) -> bytes:
    """The micro image's file, as every node has it under its own name."""
    wait(lab.demo.micro_image, 30, "the micro image to be seen")
    (found,) = (lab.nodes["n1"].folder / IMAGES).glob("micro*.qcow2")
    return found.read_bytes()


def upload(lab: Lab, name: str, content: bytes) -> str:
    begun = lab.api.post("images/", {"name": name, "size_bytes": len(content)}, expect=201)
    for offset in range(0, len(content), CHUNK_BYTES):
        put(lab, f"uploads/{begun['id']}/?offset={offset}", content[offset : offset + CHUNK_BYTES])
    return str(begun["id"])


def put(lab: Lab, path: str, chunk: bytes) -> Any:
    headers = {"Authorization": f"Bearer {lab.api.token}", "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{lab.api.url}/api/v1/{path}", chunk, headers, method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def copies(lab: Lab, name: str) -> dict[str, Path]:
    """Node -> the file there; of nodes that have one."""
    found = {node: part.folder / IMAGES / name for node, part in lab.nodes.items()}
    return {node: path for node, path in found.items() if path.exists()}


def test_an_uploaded_image_comes_to_every_node_boots_and_goes_when_nobody_needs_it(lab: Lab, content: bytes) -> None:
    image = upload(lab, "uploaded.qcow2", content)
    assert lab.api.get(f"images/{image}/")["state"] == "stored"
    body = lab.vm_body(image=image, node=lab.node_id("n2"))
    refused = lab.api.request("POST", "vms/", body)
    assert refused.body["code"] == "image_absent"

    lab.api.do(f"images/{image}/distribute/", {})
    assert {
        node: path.read_bytes() == content for node, path in copies(lab, "uploaded.qcow2").items()
    } == dict.fromkeys(lab.nodes, True)
    lab.api.do(f"nodes/{lab.node_id('n2')}/inspect/")
    assert lab.api.get(f"images/{image}/")["state"] == "ready"

    vm = lab.create(image=image, node=lab.node_id("n2"))["id"]
    lab.wait_console(vm, "GUEST-UP")
    held = lab.api.request("POST", f"images/{image}/delete/", {})
    assert (held.status, held.body["code"]) == (409, "file_has_disks")
    lab.api.do(f"vms/{vm}/delete/", {"disks": True})
    lab.api.do(f"images/{image}/delete/", {})
    assert copies(lab, "uploaded.qcow2") == {}
    assert lab.api.request("GET", f"images/{image}/").status == 404


def test_somebodys_file_of_that_name_survives_and_the_other_nodes_copies_are_taken_back(
    lab: Lab, content: bytes
) -> None:
    foreign = lab.nodes["n2"].folder / IMAGES / "taken.qcow2"
    image = upload(lab, "taken.qcow2", content)
    foreign.write_text("somebody's")
    job = lab.api.follow(lab.api.post(f"images/{image}/distribute/", {})["job"]["id"])
    assert (job["state"], job["error"]["code"]) == ("failed", "exists_not_ours")
    assert copies(lab, "taken.qcow2") == {"n2": foreign}
    assert foreign.read_text() == "somebody's"
    lab.api.do(f"images/{image}/delete/", {})
    assert foreign.read_text() == "somebody's"
    foreign.unlink()


WEB_PORT = 8180


@pytest.fixture
def web(lab: Lab, content: bytes, tmp_path: Path) -> Iterator[str]:
    """A web server beside the nodes that has the image; its address."""
    (tmp_path / "web.qcow2").write_bytes(content)
    serve = [sys.executable, "-u", "-m", "http.server", "--bind", LAB_ADDRESS, str(WEB_PORT), "-d", str(tmp_path)]
    server = subprocess.Popen(lab.demo.state.in_lab(*serve), stdout=subprocess.PIPE, text=True)
    assert server.stdout
    assert "Serving" in server.stdout.readline()
    yield f"http://{LAB_ADDRESS}:{WEB_PORT}"
    server.terminate()
    server.wait()


def test_an_image_is_downloaded_by_a_node_and_boots_on_another_one(lab: Lab, web: str, content: bytes) -> None:
    asked = {"url": f"{web}/web.qcow2", "node": lab.node_id("n1")}
    job = lab.api.do("images/download/", asked)
    image = job["subject"].partition(":")[2]
    assert lab.api.get(f"images/{image}/")["state"] == "ready"
    assert copies(lab, "web.qcow2")["n1"].read_bytes() == content
    lab.api.do(f"images/{image}/distribute/", {})
    vm = lab.create(image=image, node=lab.node_id("n2"))["id"]
    lab.wait_console(vm, "GUEST-UP")
    lab.api.do(f"vms/{vm}/delete/", {"disks": True})
    lab.api.do(f"images/{image}/delete/", {})
    assert copies(lab, "web.qcow2") == {}


def test_nothing_is_downloaded_from_the_clusters_own_machines(lab: Lab, web: str) -> None:
    nodes = [f"http://{place}:16514/web.qcow2" for place in ("10.99.0.11", "127.0.0.1")]
    for asked, code in ((nodes[0], "address_refused"), (nodes[1], "address_refused"), (f"{web}/a.qcow2", None)):
        job = lab.api.follow(lab.api.post("images/download/", {"url": asked})["job"]["id"])
        assert (job["state"], job["error"]["code"]) == ("failed", code or "download_refused")
    assert not lab.api.all("images/?name=web.qcow2")
    assert copies(lab, "web.qcow2") == {}


def test_an_image_of_a_vms_disk_has_its_content_and_boots_on_another_node(lab: Lab, content: bytes) -> None:
    vm = lab.create(node=lab.node_id("n1"))["id"]
    lab.wait_console(vm, "GUEST-UP")
    disk = lab.api.get(f"vms/{vm}/")["disks"][0]["id"]
    refused = lab.api.request("POST", f"disks/{disk}/image/", {"name": "golden", "generalise": False})
    assert (refused.status, refused.body["code"]) == (409, "state")
    lab.api.do(f"vms/{vm}/stop/")
    job = lab.api.do(f"disks/{disk}/image/", {"name": "golden", "generalise": False})
    image = job["subject"].partition(":")[2]
    lab.api.do(f"vms/{vm}/delete/", {"disks": True})
    lab.api.do(f"images/{image}/distribute/", {})
    assert copies(lab, "golden.qcow2").keys() == lab.nodes.keys()
    second = lab.create(image=image, node=lab.node_id("n2"))["id"]
    lab.wait_console(second, "GUEST-UP")
    lab.api.do(f"vms/{second}/delete/", {"disks": True})
    lab.api.do(f"images/{image}/delete/", {})
    assert copies(lab, "golden.qcow2") == {}
