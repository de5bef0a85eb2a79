"""Where the other VMs of a VM's affinity groups are, and what that says of a node."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from django.db.models import QuerySet

from .models import AffinityGroup, AffinityMember, AffinityPolicy, Vm
from .refusals import Refusal
from .saga.steps import Lost

MOST_OF_A_VM = 4


@dataclass
class Member:
    """One VM of a group, as it counts for the others."""

    vm: str
    name: str
    places: dict[str, str]
    """Node -> its name: where it is, and where a move is about to bring it."""
    holds: set[str] | None
    """Nodes on which it keeps those that belong to it; None: it is about to leave, and follows them."""


@dataclass
class Rule:
    """An affinity group with its members."""

    group: str
    name: str
    policy: str
    hard: bool
    members: list[Member] = field(default_factory=list)

    def against(self, node: str, vm: str = "") -> list[Member]:
        """Members for whose sake ``vm`` does not belong on the node."""
        others = [member for member in self.members if member.vm != vm]
        if self.policy == AffinityPolicy.APART:
            return [member for member in others if node in member.places]
        return [member for member in others if member.holds is not None and node not in member.holds]

    def reason(self, node: str, node_name: str, vm: str = "") -> Refusal | None:
        """Why not; of several members it names the first."""
        found = self.against(node, vm)
        if not found:
            return None
        there = ", ".join(found[0].places.values())
        facts = {"vm": found[0].name, "group": self.name, "there": there, "node": node_name}
        code = f"affinity_{self.policy}" if self.hard else f"affinity_{self.policy}_soft"
        return Refusal(code, facts, field="affinity_groups")

    def broken_by(self) -> tuple[Member, Member] | None:
        """Two members that are not as the group says."""
        for position, one in enumerate(self.members):
            for other in self.members[position + 1 :]:
                same = bool(one.places.keys() & other.places.keys())
                if same is (self.policy == AffinityPolicy.APART):
                    return one, other
        return None


def rules_of_groups(groups: Iterable[AffinityGroup]) -> list[Rule]:
    """Each with its members, in one query; none where there is no group."""
    rules = {group.pk: Rule(group.pk, group.name, group.policy, group.hard) for group in groups}
    if rules:
        _fill(rules)
    return list(rules.values())


def rules_of_vms(vms: Collection[str]) -> dict[str, list[Rule]]:
    """VM -> the rules of its groups. A VM that is in several groups is one member in all of them."""
    belongs = AffinityMember.objects.filter(vm__in=vms).order_by("group__name", "pk")
    rules: dict[str, Rule] = {}
    found: dict[str, list[Rule]] = {}
    for vm, pk, name, policy, hard in belongs.values_list("vm", "group", "group__name", "group__policy", "group__hard"):
        found.setdefault(vm, []).append(rules.setdefault(pk, Rule(pk, name, policy, hard)))
    if rules:
        _fill(rules)
    return found


def _fill(rules: dict[str, Rule]) -> None:
    known: dict[str, Member] = {}
    members = AffinityMember.objects.filter(group__in=rules).order_by("vm__name", "pk")
    for group, vm, name, node, node_name, closed, moving_to, there_name, home in members.values_list(
        "group",
        "vm",
        "vm__name",
        "vm__node",
        "vm__node__name",
        "vm__node__in_maintenance",
        "vm__moving_to",
        "vm__moving_to__name",
        "vm__home",
    ):
        if vm not in known:
            places = {node: node_name} | ({moving_to: there_name} if moving_to else {})
            holds = {moving_to} if moving_to else None if closed else {node} | ({home} if home else set())
            known[vm] = Member(vm, name, places, holds)
        rules[group].members.append(known[vm])


def members(rules: dict[str, list[Rule]]) -> Iterable[Member]:
    """Of all these rules; one that is in several comes as often."""
    return (member for its in rules.values() for rule in its for member in rule.members)


def hold(groups: Sequence[str], node: str) -> None:
    """Asked again in the transaction that reserves: two VMs that must be apart may have been planned at once.

    The rows stay locked until it ends. Raises :class:`Lost` where a group is gone, or its hard rule is broken there.
    """
    rows = _locked(AffinityGroup.objects.filter(pk__in=groups)) if groups else []
    if len(rows) < len(set(groups)):
        raise Lost(node)
    _check([row for row in rows if row.hard], node)


def hold_for(vm: Vm, node: str) -> None:
    """The same for a VM that there is already, of whatever groups it is in now."""
    _check(_locked(AffinityGroup.objects.filter(members__vm=vm, hard=True)), node, vm.pk)


def _locked(groups: "QuerySet[AffinityGroup]") -> list[AffinityGroup]:
    return list(groups.select_for_update(of=("self",)).order_by("pk"))


def _check(groups: Iterable[AffinityGroup], node: str, vm: str = "") -> None:
    if any(rule.against(node, vm) for rule in rules_of_groups(groups)):
        raise Lost(node)
