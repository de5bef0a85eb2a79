"""Every code that the panel or a node can say has words in both languages, and their facts agree."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.utils import translation

from cluster import checks
from cluster.refusals import Refusal
from cluster.texts import TEXTS
from nodes.download import CERTIFICATE

ROOT = Path(__file__).parents[2]
ONLY_ON_THE_NODE = {
    # Said by the commands of ulei-node to who sits there, never in a reply.
    "agent_running", "bad_certificate", "bad_config", "bad_fingerprint", "enrol_refused", "no_ledger", "not_joined",
    "not_root", "token_refused",
}  # fmt: skip


def codes(folder: str, pattern: str) -> set[str]:
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        found |= set(re.findall(pattern, file.read_text()))
    return found


def test_every_refusal_of_the_panel_has_a_text() -> None:
    assert codes("cluster", r'Refusal\(\s*"([a-z_]+)"') | codes("web", r'Refusal\(\s*"([a-z_]+)"') <= set(TEXTS)


def test_every_error_of_a_node_has_a_text() -> None:
    assert set(CERTIFICATE.values()) <= set(TEXTS)
    assert codes("nodes", r'(?:NodeError|CallLost|ErrorInfo)\(\s*(?:code=)?"([a-z_]+)"') - ONLY_ON_THE_NODE <= set(
        TEXTS
    )


@pytest.mark.parametrize("code", TEXTS)
def test_a_translation_names_the_same_facts(code: str) -> None:
    def facts(text: str) -> list[str]:
        return sorted(re.findall(r"%\((\w+)\)", text))

    for text in TEXTS[code]:
        with translation.override("ru"):
            assert facts(translation.gettext(text) if text else "") == facts(text)


def test_a_nodes_own_words_follow_a_text_without_facts_and_stand_alone_for_an_unknown_code() -> None:
    with translation.override("en"):
        assert Refusal("libvirt_error", cause="no such device").said()["cause"] == "libvirt refused (no such device)"
        assert Refusal("of_tomorrow", cause="a new trouble", hint="update").said() == {
            "code": "of_tomorrow",
            "cause": "a new trouble",
            "hint": "update",
        }


def test_sizes_are_said_in_the_readers_units() -> None:
    room = Refusal("no_room", {"pool": "p", "node": "n1", "free": 1 << 30, "needed": 3 << 29})
    with translation.override("ru"):
        assert "1 ГиБ" in room.said()["cause"]
        assert "1,5 ГиБ" in room.said()["cause"]
    with translation.override("en"):
        assert "1.5 GiB" in room.said()["cause"]


@pytest.mark.parametrize("facts", [{}, {"names": None, "taken": "x"}, {"total_bytes": "much", "free_bytes": 1e999}])
@pytest.mark.parametrize("code", sorted(checks.SAY))
def test_a_check_of_which_the_node_told_too_little_is_shown_all_the_same(code: str, facts: dict[str, Any]) -> None:
    """One node's odd line must not break the list of all nodes."""
    assert checks.said({"code": code, "level": "warning", "facts": facts})
