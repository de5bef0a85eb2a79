"""Which node is taken, and what is said of the others."""

from types import SimpleNamespace
from typing import Any

from cluster.placement import Need, candidates, explain, next_free_address
from nodes.contract.sizes import GIB


def node(name: str, **fields: Any) -> Any:
    values = {
        "pk": name,
        "name": name,
        "state": "online",
        "in_maintenance": False,
        "redis_password_sha256": "x",
        "cpus": 8,
        "cpus_limit": 64,
        "cpus_allocated": 0,
        "memory_limit_bytes": 16 * GIB,
        "memory_allocated_bytes": 0,
        "group_id": None,
        "facts": {"bridges": ["br0"]},
        "default_pool_id": "p",
    }
    return SimpleNamespace(**{**values, **fields})


def codes(rows: Any) -> dict[str, list[str]]:
    return {row.node.name: [r.code for r in row.reasons] for row in rows}


def test_the_node_with_the_largest_share_of_free_memory_is_taken() -> None:
    rows = candidates(Need(1, GIB, []), [node("a", memory_allocated_bytes=8 * GIB), node("b"), node("c", cpus=0)])
    assert [row.node.name for row in rows] == ["b", "a", "c"]
    chosen = explain(rows)
    assert chosen
    assert chosen["node"] == "b"
    assert {other["name"] for other in chosen["others"]} == {"a", "c"}


def test_every_reason_of_a_node_is_said_not_only_the_first() -> None:
    bridge = SimpleNamespace(bridge="br9")
    rows = candidates(Need(9, 20 * GIB, [bridge]), [node("a", in_maintenance=True, default_pool_id=None)])
    assert codes(rows) == {"a": ["maintenance", "no_cpus", "no_memory", "no_bridge", "no_pool"]}
    assert explain(rows) is None


def test_a_node_gives_no_more_memory_and_vcpus_than_its_limits() -> None:
    assert codes(candidates(Need(1, 17 * GIB, []), [node("a")])) == {"a": ["no_memory"]}
    full = {"a": ["no_cpus"]}
    assert codes(candidates(Need(2, GIB, []), [node("a", cpus_allocated=63)])) == full
    assert codes(candidates(Need(1, GIB, []), [node("a", cpus_allocated=63)])) == {"a": []}


def test_a_vm_never_has_more_vcpus_than_its_node_has_cpus() -> None:
    [candidate] = candidates(Need(9, GIB, []), [node("a")])
    assert [reason.said()["cause"] for reason in candidate.reasons] == [
        "no room for 9 vCPUs on node a: CPUs there: 8, vCPUs free: 64 of 64"
    ]


def test_a_node_that_has_not_joined_says_just_that() -> None:
    assert codes(candidates(Need(99, GIB, []), [node("a", redis_password_sha256="")])) == {"a": ["node_gone"]}


def test_the_next_free_address_is_the_lowest_that_nobody_has() -> None:
    ranges = [SimpleNamespace(first="10.0.0.10", last="10.0.0.12"), SimpleNamespace(first="10.0.1.1", last="10.0.1.1")]
    network: Any = SimpleNamespace(ranges=SimpleNamespace(all=lambda: ranges))
    assert next_free_address(network, {"10.0.0.10"}) == "10.0.0.11"
    assert next_free_address(network, {f"10.0.0.{n}" for n in (10, 11, 12)}) == "10.0.1.1"
    assert next_free_address(network, {"10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.1.1"}) is None
