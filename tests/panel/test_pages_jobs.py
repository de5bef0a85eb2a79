"""Buttons and the job page: what was started, what it waits for, what may be said to it, what was undone."""

import json

import pytest

from cluster.models import Job, Lock, Step, Vm
from cluster.operations import start
from tests.panel.browser import Browser, text_of
from tests.panel.engine.scenarios import Scene
from tests.people import Person


@pytest.fixture
def browser(scene: Scene, people: dict[str, Person]) -> Browser:
    return Browser(people["administrator"])


def a_job(scene: Scene, people: dict[str, Person], code: str = "vm.shutdown", **fields: object) -> Job:
    job = start(people["administrator"].actor, code, {}, scene.running.pk).job
    Job.objects.filter(pk=job.pk).update(**fields)
    return job


def test_a_button_starts_a_job_and_tells_which_part_to_fetch_again(browser: Browser, scene: Scene) -> None:
    answer = browser.press(f"/vms/{scene.stopped.pk}/do/start/")
    job = Job.objects.get()
    told = json.loads(answer["HX-Trigger"])
    assert answer["HX-Reswap"] == "none"
    assert told["ulei:notice"]["link"] == f"/jobs/{job.pk}/"
    assert told["ulei:refresh"] == {"about": f"vm:{scene.stopped.pk}"}


def test_a_button_works_without_javascript(browser: Browser, scene: Scene) -> None:
    answer = browser.post(f"/vms/{scene.stopped.pk}/do/start/")
    assert answer["Location"] == f"/jobs/{Job.objects.get().pk}/"


def test_a_refused_click_says_every_reason_and_starts_nothing(browser: Browser, scene: Scene) -> None:
    told = json.loads(browser.press(f"/vms/{scene.running.pk}/do/start/")["HX-Trigger"])
    assert told["ulei:notice"]["level"] == "error"
    assert "VM vm-running is" in told["ulei:notice"]["text"]
    plain = browser.post(f"/vms/{scene.running.pk}/do/start/")
    assert plain["Location"] == f"/vms/{scene.running.pk}/"
    assert "VM vm-running is" in text_of(browser.get(plain["Location"]))
    assert not Job.objects.exists()


def test_deletion_is_confirmed_with_the_names_of_what_is_lost(browser: Browser, scene: Scene) -> None:
    words = text_of(browser.get(f"/vms/{scene.running.pk}/do/delete/"))
    assert "the VM vm-running" in words
    assert "the reservation of address 10.99.0.150 in network lan" in words
    assert not Job.objects.exists()
    browser.post(f"/vms/{scene.running.pk}/do/delete/")
    assert Job.objects.get().params == {"disks": True}


def test_a_protected_vm_says_so_and_cannot_be_confirmed(browser: Browser, scene: Scene) -> None:
    browser.post(f"/vms/{scene.running.pk}/edit/", {"protected": "1"})
    assert Vm.objects.get(pk=scene.running.pk).protected
    page = browser.get(f"/vms/{scene.running.pk}/do/delete/")
    assert "is protected from deletion" in text_of(page)
    assert 'class="btn btn-danger" disabled' in page.content.decode()


def test_stop_by_force_is_offered_after_a_shut_down_that_took_too_long(
    browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    a_job(scene, people, state="failed", error={"code": "guest_did_not_shut_down", "facts": {"timeout_s": 120}})
    page = browser.get(f"/vms/{scene.running.pk}/")
    assert "The guest did not shut down in time" in text_of(page)
    Vm.objects.filter(pk=scene.running.pk).update(state="stopped")
    assert "The guest did not shut down in time" not in text_of(browser.get(f"/vms/{scene.running.pk}/"))


def test_a_job_page_shows_steps_error_hint_and_what_was_undone(
    browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    error = {"code": "libvirt_unreachable", "facts": {}}
    job = a_job(scene, people, state="failed", error=error)
    Step.objects.filter(job=job).update(state="undone", error=error)
    words = text_of(browser.get(f"/jobs/{job.pk}/"))
    for expected in ("Ask the guest to shut down", "Libvirt on the node does not answer", "What was undone"):
        assert expected in words


def test_a_waiting_job_says_for_what_and_its_place_in_line(
    browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    first = a_job(scene, people)
    Lock.objects.filter(job=first).update(held=True)
    second = a_job(scene, people, "vm.reboot")
    words = text_of(browser.get(f"/jobs/{second.pk}/"))
    assert "Waits for VM vm-running, place in line: 1" in words
    browser.press(f"/jobs/{second.pk}/priority/", {"priority": "1"})
    assert Job.objects.get(pk=second.pk).priority == 1


def test_a_job_is_cancelled_and_a_second_cancel_is_refused_in_words(
    browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    job = a_job(scene, people)
    assert json.loads(browser.press(f"/jobs/{job.pk}/cancel/")["HX-Trigger"]) == {
        "ulei:refresh": {"about": f"job:{job.pk}"}
    }
    assert Job.objects.get(pk=job.pk).cancel_requested
    Job.objects.filter(pk=job.pk).update(state="cancelled")
    told = json.loads(browser.press(f"/jobs/{job.pk}/cancel/")["HX-Trigger"])
    assert "The job has already ended." in told["ulei:notice"]["text"]


@pytest.mark.parametrize("word", ["retry", "proceed", "resolve", "priority"])
def test_words_that_do_not_fit_are_refused_and_never_break(
    word: str, browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    job = a_job(scene, people, state="running")
    for typed in ({}, {"outcome": "perhaps", "priority": "9"}):
        told = json.loads(browser.press(f"/jobs/{job.pk}/{word}/", typed)["HX-Trigger"])
        assert told["ulei:notice"]["level"] == "error"


def test_a_stuck_job_is_resolved_with_a_note(browser: Browser, scene: Scene, people: dict[str, Person]) -> None:
    job = a_job(scene, people, state="stuck")
    assert "Resolve by hand" in text_of(browser.get(f"/jobs/{job.pk}/"))
    browser.post(f"/jobs/{job.pk}/resolve/", {"outcome": "undone", "note": "looked at it"})
    assert Job.objects.get(pk=job.pk).resolution["note"] == "looked at it"  # type: ignore[index]


def test_words_are_posts_and_unknown_ones_do_not_exist(
    browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    job = a_job(scene, people)
    assert browser.get(f"/jobs/{job.pk}/cancel/").status_code == 405
    assert browser.post(f"/jobs/{job.pk}/destroy/").status_code == 404


def test_the_demo_waits_for_a_click(browser: Browser, scene: Scene) -> None:
    assert "Demo: wait for a click" in text_of(browser.get("/demo/"))
    browser.press(f"/nodes/{scene.node.pk}/do/wait/")
    job = Job.objects.get()
    Job.objects.update(state="running")
    Step.objects.filter(name="wait").update(state="running", waits_for_click=True)
    assert "Proceed" in text_of(browser.get(f"/jobs/{job.pk}/"))
    browser.press(f"/jobs/{job.pk}/proceed/")
    assert Job.objects.get().data["clicked"]


def test_the_journal_tells_who_did_what(browser: Browser, scene: Scene) -> None:
    browser.press(f"/vms/{scene.stopped.pk}/do/start/")
    browser.post(f"/vms/{scene.stopped.pk}/edit/", {"protected": "1"})
    words = text_of(browser.get("/journal/"))
    assert "administrator Administrator Start vm-stopped started" in words
    assert "Change a VM vm-stopped done" in words
