"""The table of rights as people read it: a change of rights is a change of this file, seen in review."""

from pathlib import Path

from cluster.models import Role
from cluster.permissions import TABLE

GOLDEN = Path(__file__).parent / "golden" / "rights.txt"


def printed() -> str:
    width = max(map(len, TABLE))
    lines = [" " * width + "  " + "  ".join(Role.values)]
    for action, roles in TABLE.items():
        marks = ("yes" if role in roles else "-" for role in Role.values)
        cells = (mark.ljust(len(role)) for mark, role in zip(marks, Role.values, strict=True))
        lines.append(f"{action.ljust(width)}  {'  '.join(cells)}".rstrip())
    return "\n".join(lines) + "\n"


def test_the_table_of_rights_is_the_one_that_was_reviewed() -> None:
    assert printed() == GOLDEN.read_text(), f"review the change, then write it to {GOLDEN}"


def test_a_read_only_administrator_may_only_see() -> None:
    assert {action for action, roles in TABLE.items() if Role.READ_ONLY in roles} == {
        action for action in TABLE if action.startswith("see.")
    }


def test_a_tenant_sees_no_fabric_and_touches_none() -> None:
    tenant_side = {action for action, roles in TABLE.items() if {Role.TENANT_ADMINISTRATOR, Role.SELF_SERVICE} & roles}
    assert not [a for a in tenant_side if a.split(".")[0] in ("node", "network", "demo", "image")]
    assert not tenant_side & {"see.nodes", "see.pools", "see.audit", "job.resolve"}
