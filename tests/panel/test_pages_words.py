"""What people read: complete in Russian, placeholders and plurals right; what the browser gets: fit for the strict CSP.

The messages are gathered by ``manage.py makemessages -l ru`` with the options of ``EXTRACT`` and then translated in
web/locale/ru; ``manage.py compilemessages`` makes what Django reads.
"""

import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import override_settings
from django.utils import translation
from django.utils.translation import gettext, ngettext, trans_real

from cluster.saga.steps import Operation
from web.templatetags.ulei import LOOKS, duration

ROOT = Path(__file__).resolve().parents[2]
PO = ROOT / "web/locale/ru/LC_MESSAGES/django.po"
TEMPLATES = sorted((ROOT / "web/templates").rglob("*.html"))
EXTRACT = {
    "no_wrap": True,
    "add_location": "never",
    "no_obsolete": True,
    "ignore_patterns": ["var*", "node_modules", "tests", "deploy", "docs", "web/static/*"],
    "verbosity": 0,
}


def counted(*filters: str, path: Path = PO) -> int:
    """How many messages ``msgattrib`` lets through."""
    argv = ["msgattrib", "--no-wrap", *filters, str(path)]
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return len(re.findall(r'^msgid "', found, re.MULTILINE)) - ('msgid ""\nmsgstr' in found)


def msgids(path: Path) -> set[str]:
    """With their contexts and plurals, as they stand in the file."""
    text = path.read_text()
    return set(re.findall(r'((?:^msgctxt ".*"\n)?^msgid .*\n(?:"(?!Project-Id).*\n)*)', text, re.MULTILINE))


def test_nothing_is_untranslated_or_doubtful() -> None:
    assert counted("--untranslated") == 0
    assert counted("--only-fuzzy") == 0


def test_placeholders_and_plurals_agree() -> None:
    subprocess.run(["msgfmt", "--check-format", "--check-header", "-o", "/dev/null", str(PO)], check=True)


def test_every_message_of_the_panel_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ru/LC_MESSAGES").mkdir(parents=True)
    shutil.copy(PO, tmp_path / "ru/LC_MESSAGES/django.po")
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "cluster", copy / "cluster")
    shutil.copytree(ROOT / "web", copy / "web", ignore=shutil.ignore_patterns("vendor", "locale"))
    monkeypatch.chdir(copy)
    with override_settings(LOCALE_PATHS=[str(tmp_path)]):
        call_command("makemessages", locale=["ru"], **EXTRACT)
    fresh = tmp_path / "ru/LC_MESSAGES/django.po"
    assert sorted(msgids(fresh) - msgids(PO)) == []


@pytest.fixture
def russian(tmp_path: Path) -> object:
    """The committed translation, whether or not this checkout has been compiled."""
    (tmp_path / "ru/LC_MESSAGES").mkdir(parents=True)
    argv = ["msgfmt", "-o", str(tmp_path / "ru/LC_MESSAGES/django.mo"), str(PO)]
    subprocess.run(argv, check=True)
    with override_settings(LOCALE_PATHS=[str(tmp_path)]), translation.override("ru"):
        trans_real._translations.clear()
        trans_real._default = None
        translation.activate("ru")
        yield
    trans_real._translations.clear()
    trans_real._default = None


@pytest.mark.usefixtures("russian")
def test_labels_are_those_that_operators_know() -> None:
    english = ["Virtual machines", "Nodes", "Storage", "Addresses", "Image", "Disks", "Interfaces", "Jobs", "Journal"]
    assert [gettext(word) for word in english] == [
        "Виртуальные машины", "Узлы", "Хранилище", "Адреса", "Образ", "Диски", "Интерфейсы", "Задания", "Журнал",
    ]  # fmt: skip


@pytest.mark.usefixtures("russian")
@pytest.mark.parametrize(
    ("n", "expected"), [(1, "1 причина"), (3, "3 причины"), (5, "5 причин"), (11, "11 причин"), (21, "21 причина")]
)
def test_russian_plurals(n: int, expected: str) -> None:
    said = ngettext("Cannot be created: %(n)s reason", "Cannot be created: %(n)s reasons", n) % {"n": n}
    assert said == f"Создать нельзя: {expected}"


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(0, "0,0 с"), (440, "0,4 с"), (9_960, "9,9 с"), (59_999, "59 с"), (61_000, "1 мин 1 с"), (7_320_000, "2 ч 2 мин")],
)
def test_a_short_step_is_told_in_tenths_of_a_second(milliseconds: int, expected: str) -> None:
    with translation.override("ru"):
        assert duration(timedelta(milliseconds=milliseconds)) == expected


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT / "web/templates")))
def test_a_template_is_fit_for_the_strict_policy(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\sstyle\s*=|<style|\son[a-z]+\s*=|hx-on|javascript:|hx-vals=.?js:", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


def test_every_icon_in_use_is_in_the_sprite() -> None:
    listed = set((ROOT / "web/static/icons.txt").read_text().split())
    used = {picture for _colour, picture in LOOKS.values()} | {o.icon for o in Operation.registry.values()}
    for template in TEMPLATES:
        used |= set(re.findall(r'(?:{% icon |picture=)"([a-z0-9-]+)"', template.read_text()))
    assert used - listed == set()
