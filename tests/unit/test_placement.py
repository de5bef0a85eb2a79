"""Which node is taken, and what is said of the others."""

from types import SimpleNamespace
from typing import Any

from django.utils import translation

from cluster.affinity import Member, Rule
from cluster.placement import Need, candidates, explain, next_free_address, points_in_use
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
        "busy_percent": None,
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


def test_a_node_that_was_busy_is_chosen_less_and_both_are_told_why() -> None:
    rows = candidates(Need(1, GIB, []), [node("a", busy_percent=87), node("b", busy_percent=23), node("c")])
    assert [(row.node.name, rows[0].score - row.score) for row in rows] == [("c", 0), ("b", 20), ("a", 80)]
    chosen = explain(rows[1:])
    assert chosen
    assert [reason["code"] for reason in chosen["reasons"]] == ["most_points", "node_busy_lately"]
    [other] = chosen["others"]
    assert other["reasons"][0]["code"] == "fewer_points_busy"
    with translation.override("en"):
        assert "after it lost 80 for having been 87 % busy" in explain(rows[1:])["others"][0]["reasons"][0]["cause"]  # type: ignore[index]


def test_being_busy_weighs_less_than_what_is_promised_and_does_not_count_as_that() -> None:
    full, busy = node("full", memory_allocated_bytes=6 * GIB), node("busy", busy_percent=100)
    assert candidates(Need(1, GIB, []), [full, busy])[0].node is busy
    assert points_in_use(busy) == points_in_use(node("idle")) == 0


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
    with translation.override("en"):
        [said] = [reason.said()["cause"] for reason in candidate.reasons]
    assert said == "no room for 9 vCPUs on node a: CPUs there: 8, vCPUs free: 64 of 64"


def member(vm: str, node: str, **holds: Any) -> Member:
    return Member(vm, vm, {node: node}, holds.get("holds", {node}))


def rule(policy: str, *members: Member, hard: bool = False) -> Rule:
    return Rule("g", "web", policy, hard, list(members))


def test_points_are_what_stays_free_two_parts_memory_and_one_part_vcpus() -> None:
    [one] = candidates(Need(2, 4 * GIB, []), [node("a", memory_allocated_bytes=4 * GIB, cpus_allocated=30)])
    assert one.score == (2 * 500 + 500) // 3


def test_equal_nodes_come_by_name() -> None:
    rows = candidates(Need(1, GIB, []), [node("c"), node("a"), node("b")])
    assert [row.node.name for row in rows] == ["a", "b", "c"]
    chosen = explain(rows)
    assert chosen
    assert [reason["code"] for other in chosen["others"] for reason in other["reasons"]] == ["as_good", "as_good"]


def test_each_vm_that_a_group_would_rather_have_elsewhere_costs_points() -> None:
    free = candidates(Need(1, GIB, []), [node("a")])[0].score
    apart = rule("apart", member("one", "a"), member("two", "a"), member("three", "b"))
    rows = candidates(Need(1, GIB, [], rules=[apart]), [node("a"), node("b"), node("c")])
    assert [(row.node.name, row.score) for row in rows] == [("c", free), ("b", free - 250), ("a", free - 500)]
    assert [reason.code for reason in rows[2].wishes] == ["affinity_apart_soft"]


def test_a_vm_is_not_in_its_own_way() -> None:
    apart = rule("apart", member("self", "a"), hard=True)
    assert codes(candidates(Need(1, GIB, [], rules=[apart], vm="self"), [node("a")])) == {"a": []}
    assert codes(candidates(Need(1, GIB, [], rules=[apart]), [node("a")])) == {"a": ["affinity_apart"]}


def test_who_is_about_to_leave_a_node_keeps_nobody_there() -> None:
    together = rule("together", member("one", "a", holds=None), hard=True)
    assert codes(candidates(Need(1, GIB, [], rules=[together]), [node("b")])) == {"b": []}


def test_a_node_that_has_not_joined_says_just_that() -> None:
    assert codes(candidates(Need(99, GIB, []), [node("a", redis_password_sha256="")])) == {"a": ["node_gone"]}


def test_the_next_free_address_is_the_lowest_that_nobody_has() -> None:
    ranges = [SimpleNamespace(first="10.0.0.10", last="10.0.0.12"), SimpleNamespace(first="10.0.1.1", last="10.0.1.1")]
    network: Any = SimpleNamespace(ranges=SimpleNamespace(all=lambda: ranges))
    assert next_free_address(network, {"10.0.0.10"}) == "10.0.0.11"
    assert next_free_address(network, {f"10.0.0.{n}" for n in (10, 11, 12)}) == "10.0.1.1"
    assert next_free_address(network, {"10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.1.1"}) is None
