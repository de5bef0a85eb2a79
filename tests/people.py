"""Everybody whom the rights are tried with. Two tenants: the owner's own, and the stranger's."""

from dataclasses import dataclass

from cluster.models import Grant, Role, Tenant, Token, User
from cluster.permissions import TABLE, Actor

PASSWORD = "correct horse battery staple"
TICKS = sorted(action for action, roles in TABLE.items() if Role.SELF_SERVICE in roles and action.startswith("vm."))

_ROLES: dict[str, tuple[Role, str | None, list[str]]] = {
    "administrator": (Role.ADMINISTRATOR, None, []),
    "fabric": (Role.FABRIC, None, []),
    "vm_administrator": (Role.VM_ADMINISTRATOR, None, []),
    "read_only": (Role.READ_ONLY, None, []),
    "tenant_administrator": (Role.TENANT_ADMINISTRATOR, "acme", []),
    "owner": (Role.SELF_SERVICE, "acme", TICKS),
    "member": (Role.SELF_SERVICE, "acme", []),
    "stranger": (Role.SELF_SERVICE, "umbra", TICKS),
}
PEOPLE = (*_ROLES, "anonymous")
"""``anonymous`` has no actor and no token."""


@dataclass(frozen=True)
class Person:
    name: str
    actor: Actor
    token: str

    @property
    def user(self) -> User:
        return self.actor.user


def make_people() -> dict[str, Person]:
    """Everybody but the anonymous one. ``member`` is of the owner's tenant and has no action ticked."""
    tenants = {name: Tenant.objects.create(name=name) for name in ("acme", "umbra")}
    return {
        name: make_person(name, role, tenants.get(tenant or ""), ticks)
        for name, (role, tenant, ticks) in _ROLES.items()
    }


def make_person(name: str, role: Role, tenant: Tenant | None, ticks: list[str]) -> Person:
    # Without a usable password: hashing one is slow on purpose, and few tests sign in by it.
    user = User.objects.create(username=name, language="en", password="!")
    grant = Grant.objects.create(user=user, role=role, tenant=tenant, actions=ticks)
    return Person(name, Actor(user, grant), Token.issue(grant, "tests"))
