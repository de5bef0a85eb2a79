"""What people type wrongly, on the real lab: a clear refusal or a right result, never a 500, and nothing left."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.conftest import MIB, Lab

EIB = 2**60
HARD_TITLE = ("Ёжик \"Q\" 'q' <b>&amp;;$(id)`id`\\ %s {{7*7}} " * 6)[:200]
UNKNOWN = "aaaaaaaaaaaaa"

NAMES = [
    "имя",
    "a b",
    "a'b",
    'a"b',
    "<b>",
    "a&b",
    "a;b",
    "$(id)",
    "a/../b",
    "a" * 200,
    "",
    "-a",
    "A",
    "a\x00b",
    None,
    5,
]
SIZES = [0, -1, 10 * EIB, 2**63, 2**64, 10**30, 1.5, "1", True, None]
IDS = [UNKNOWN, "../../../etc/passwd", "/etc/shadow", "", "' OR 1=1 --", "x" * 5000, 7]

Body = dict[str, Any]


def bad_bodies() -> dict[str, Callable[[Body], Body]]:
    found: dict[str, Callable[[Body], Body]] = {}
    for name in NAMES:
        found[f"name {name!a:.20}"] = lambda body, name=name: body | {"name": name}
    for size in SIZES:
        found[f"disk of {size!r}"] = lambda body, size=size: body | {"disks": [{"size_bytes": size}]}
        found[f"memory of {size!r}"] = lambda body, size=size: body | {"memory_bytes": size}
        found[f"{size!r} processors"] = lambda body, size=size: body | {"vcpus": size}
    for wanted in IDS:
        for field in ("node", "image", "tenant"):
            found[f"{field} {wanted!a:.20}"] = lambda body, field=field, wanted=wanted: body | {field: wanted}
        found[f"iso {wanted!a:.20}"] = lambda body, wanted=wanted: body | {"iso": wanted, "image": None}
        found[f"pool {wanted!a:.20}"] = lambda body, wanted=wanted: (
            body | {"disks": [{"size_bytes": 128 * MIB, "pool": wanted}]}
        )
        found[f"network {wanted!a:.20}"] = lambda body, wanted=wanted: body | {"nics": [{"network": wanted}]}
    return found


def is_clear(answer: Any) -> bool:
    return answer.status in (400, 404, 409, 422, 507) and bool(answer.body["code"]) and bool(answer.body["detail"])


def test_what_is_wrong_is_refused_in_words_and_starts_nothing(lab: Lab):
    before = lab.vm_body("wrong", start=False)
    answers = {
        words: lab.api.request("POST", "vms/", change(dict(before)), Idempotency_Key=f"wrong {number}")
        for number, (words, change) in enumerate(bad_bodies().items())
    }
    assert {words: (a.status, a.body) for words, a in answers.items() if not is_clear(a)} == {}
    assert lab.api.all("vms/") == []
    assert lab.api.all("jobs/?state=running") == []


def test_what_somebody_has_already_is_refused(lab: Lab):
    vm = lab.create("taken", start=False)
    nic, address = vm["nics"][0], vm["addresses"][0]["address"]
    network = lab.api.all("networks/")[0]["id"]
    for words, change, status in [
        ("name", {"name": "taken"}, 409),
        ("mac", {"nics": [{"network": network, "mac": lab.api.get(f"nics/{nic['id']}/")["mac"]}]}, 409),
        ("address", {"nics": [{"network": network, "address": address}]}, 409),
        ("address of no range", {"nics": [{"network": network, "address": "192.0.2.1"}]}, 422),
        ("a full pool", {"disks": [{"size_bytes": EIB}]}, 507),
    ]:
        answer = lab.api.request("POST", "vms/", lab.vm_body("other", start=False) | change)
        assert answer.status == status, (words, answer.body)
        assert answer.body["refusals"], words


@pytest.mark.parametrize("size", [1, 2**16 + 1])
def test_a_title_may_be_anything_and_an_odd_size_is_rounded_up(lab: Lab, size: int):
    vm = lab.create(title=HARD_TITLE, image=None, disks=[{"size_bytes": size}], start=False)
    assert vm["title"] == HARD_TITLE
    assert vm["disks"][0]["size_bytes"] == (size + 2**16 - 1) // 2**16 * 2**16


def test_one_key_sent_twice_is_one_vm(lab: Lab):
    body = lab.vm_body("once", start=False)
    first, second = (lab.api.request("POST", "vms/", body, Idempotency_Key="the same") for _ in range(2))
    assert (first.status, first.body["vm"]) == (second.status, second.body["vm"])
    lab.api.follow(first.body["job"]["id"])
    assert len(lab.api.all("vms/")) == 1
    again = lab.api.request("POST", "vms/", body | {"vcpus": 2}, Idempotency_Key="the same")
    assert again.status == 422
