"""Law 1, line by line: what both nodes show of a guest whose move is in doubt, and what follows."""

import pytest

from cluster.whereabouts import proves, verdict
from nodes.contract.messages import DomainWhereabouts

SEEN = {
    "silent": None,
    "absent": DomainWhereabouts(state="absent"),
    "running": DomainWhereabouts(state="running", defined=True),
    "paused": DomainWhereabouts(state="paused", defined=True),
    "job active": DomainWhereabouts(state="running", job_active=True, defined=True),
    "job active, switched": DomainWhereabouts(state="paused", job_active=True, paused_by_migration=True, defined=True),
    "paused by migration": DomainWhereabouts(state="paused", paused_by_migration=True, defined=True),
    "post-copy broken": DomainWhereabouts(state="paused", post_copy=True, defined=True),
    "shut off": DomainWhereabouts(state="shutoff", defined=True),
    "crashed": DomainWhereabouts(state="crashed", defined=True),
    "incoming": DomainWhereabouts(state="incoming", job_active=True),
}
LINES = [
    ("job active", "incoming", "wait"),
    ("job active", "absent", "wait"),
    ("job active", "running", "wait"),
    ("job active", "silent", "wait"),
    ("job active, switched", "incoming", "wait"),
    ("running", "incoming", "not_done"),
    ("paused", "incoming", "not_done"),
    ("running", "absent", "not_done"),
    ("paused", "absent", "not_done"),
    ("paused by migration", "running", "done"),
    ("paused by migration", "paused", "done"),
    ("paused by migration", "absent", "not_done"),
    ("absent", "running", "done"),
    ("absent", "paused", "done"),
    ("shut off", "running", "done"),
    ("crashed", "running", "done"),
    ("shut off", "absent", "not_done"),
    ("paused by migration", "incoming", "wait"),
    ("shut off", "incoming", "wait"),
    ("absent", "incoming", "wait"),
    ("paused by migration", "shut off", "done"),
    ("shut off", "shut off", "done"),
    ("absent", "shut off", "done"),
    ("post-copy broken", "running", "done"),
    # Anything else: nothing is touched.
    ("running", "running", "unclear"),
    ("running", "shut off", "unclear"),
    ("running", "paused by migration", "unclear"),
    ("absent", "absent", "unclear"),
    ("post-copy broken", "incoming", "unclear"),
    ("post-copy broken", "absent", "unclear"),
    ("post-copy broken", "post-copy broken", "unclear"),
    ("running", "silent", "unclear"),
    ("absent", "silent", "unclear"),
    ("paused by migration", "silent", "unclear"),
    ("shut off", "silent", "unclear"),
    ("silent", "running", "unclear"),
    ("silent", "absent", "unclear"),
    ("silent", "silent", "unclear"),
]


@pytest.mark.parametrize(("source", "target", "then"), LINES)
def test_where_the_guest_is(source: str, target: str, then: str) -> None:
    assert verdict(SEEN[source], SEEN[target]) == then


PROOFS = [
    ("done", "absent", "running", True),
    ("done", "silent", "running", True),
    ("done", "silent", "silent", False),
    ("done", "absent", "silent", False),
    ("done", "running", "absent", False),
    ("undone", "running", "silent", True),
    ("undone", "silent", "absent", True),
    ("undone", "silent", "silent", False),
    ("undone", "silent", "incoming", False),
    ("undone", "absent", "running", False),
    ("undone", "shut off", "silent", False),
]


@pytest.mark.parametrize(("outcome", "source", "target", "borne_out"), PROOFS)
def test_silence_is_no_evidence_for_an_administrators_word(
    outcome: str, source: str, target: str, borne_out: bool
) -> None:
    assert proves(outcome, SEEN[source], SEEN[target]) is borne_out
