"""The library on real parts: an uploaded image comes to every node, boots there, and goes when nobody needs it."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.node import IMAGES
from deploy.lab.processes import wait
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
