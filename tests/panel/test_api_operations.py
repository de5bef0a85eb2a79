"""The one endpoint that starts operations, and the words to their jobs."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from cluster import placement
from cluster.models import AuditEvent, IdempotencyKey, Job, Node, Pool, Step, Vm
from tests.panel.client import Api
from tests.panel.engine.scenarios import SCENARIOS, Scene

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]


def create_body(scene: Scene, **changes: Any) -> dict[str, Any]:
    return {**SCENARIOS["vm.create"](scene)[1], **changes}


def test_a_create_answers_202_with_its_job_and_its_vm(scene: Scene, api: People) -> None:
    answer = api("owner").post("vms/", create_body(scene))
    body = answer.json()
    assert answer.status_code == 202
    assert answer["Location"] == f"/api/v1/jobs/{body['job']['id']}/"
    assert api("owner").get(answer["Location"]).json()["subject"] == f"vm:{body['vm']['id']}"
    vm = api("owner").get(f"vms/{body['vm']['id']}/").json()
    assert vm["job"] == body["job"]["id"]
    assert vm["state"] == "creating"
    assert len(vm["disks"]) == len(vm["nics"]) == len(vm["addresses"]) == 2


def test_a_dry_run_says_all_and_starts_nothing(scene: Scene, api: People) -> None:
    good = api("administrator").post("vms/?dry_run=true", create_body(scene))
    assert good.status_code == 200
    assert good.json()["refusals"] == []
    assert good.json()["placement"]["node"] == scene.node.pk
    asked = [disk["asked_bytes"] for disk in good.json()["quote"]["disks"]]
    rounded = [disk["size_bytes"] for disk in good.json()["quote"]["disks"]]
    assert (asked[1], rounded[1]) == (1, 65536)
    bad = api("administrator").post("vms/?dry_run=true", create_body(scene, vcpus=99, name="vm-running", os="beos"))
    assert {"no_cpus", "os_unknown"} <= {refusal["code"] for refusal in bad.json()["refusals"]}
    assert not Job.objects.exists()
    assert not Vm.objects.filter(name="new").exists()


def test_a_refusal_carries_every_reason_and_the_first_status_of_the_order(scene: Scene, api: People) -> None:
    taken = create_body(scene, name="vm-running", os="beos")
    both = api("owner").post("vms/", taken | {"vcpus": 500})
    assert both.status_code == 409
    assert {"name_taken", "os_unknown"} <= {reason["code"] for reason in both.json()["refusals"]}
    assert both.json()["code"] == "name_taken"
    assert api("owner").post("vms/", create_body(scene, vcpus=500)).status_code == 507
    assert api("owner").post("vms/", create_body(scene, os="beos")).status_code == 422


def test_the_same_operation_at_once_is_refused_with_the_job_in_the_way(scene: Scene, api: People) -> None:
    path = f"vms/{scene.stopped.pk}/start/"
    first = api("owner").post(path).json()["job"]["id"]
    again = api("owner").post(path)
    assert again.status_code == 409
    assert again.json()["code"] == "already_running"
    assert again.json()["job"] == first


def test_another_operation_waits_in_line_unless_it_is_told_not_to(scene: Scene, api: People) -> None:
    api("owner").post(f"vms/{scene.stopped.pk}/start/")
    path = f"vms/{scene.stopped.pk}/delete/"
    refused = api("owner").post(path, {"disks": True, "wait": False})
    assert (refused.status_code, refused.json()["code"]) == (409, "locked")
    job = api("owner").post(path, {"disks": True, "wait": True}).json()["job"]
    assert job["waits_for"][0]["lock"] == f"vm:{scene.stopped.pk}"


def test_the_parameters_of_an_operation_are_refused_field_by_field(scene: Scene, api: People) -> None:
    body = create_body(scene, vcpus="many", colour="red", disks=[{"size_bytes": -1}], wait="perhaps")
    errors = api("owner").post("vms/", body).json()["errors"]
    assert errors.keys() == {"vcpus", "colour", "disks.0.size_bytes", "wait"}


def test_404_and_403_come_before_what_is_wrong_with_the_body(scene: Scene, api: People) -> None:
    body = {"disks": "perhaps", "wait": 1}
    path = f"vms/{scene.running.pk}/delete/?dry_run=maybe"
    statuses = {name: api(name).post(path, body).status_code for name in ("stranger", "read_only", "owner")}
    assert statuses == {"stranger": 404, "read_only": 403, "owner": 400}
    statuses = {name: api(name).post(path, b"{").status_code for name in ("stranger", "read_only", "owner")}
    assert statuses == {"stranger": 404, "read_only": 403, "owner": 400}


def test_a_member_without_the_tick_sees_the_vm_and_is_told_why_not(
    scene: Scene, people: dict[str, Any], api: People
) -> None:
    path = f"vms/{scene.stopped.pk}/start/"
    Vm.objects.filter(pk=scene.stopped.pk).update(owner=people["member"].user)
    refused = api("member").post(path)
    assert (refused.status_code, refused.json()["code"]) == (403, "not_ticked")
    actions = {row["code"]: row for row in api("member").get(f"vms/{scene.stopped.pk}/actions/").json()}
    assert not actions["start"]["allowed"]
    assert actions["start"]["reasons"][0]["code"] == "not_ticked"
    Vm.objects.filter(pk=scene.stopped.pk).update(owner=people["owner"].user)
    assert api("owner").post(path).status_code == 202
    assert AuditEvent.objects.filter(action="vm.start").values_list("outcome", flat=True)[0] == "refused"


# --- idempotency ------------------------------------------------------------------------------------------------


def test_the_same_key_gets_the_same_answer_and_one_job(scene: Scene, api: People) -> None:
    first = api("owner").post("vms/", create_body(scene), Idempotency_Key="k1")
    again = api("owner").post("vms/", create_body(scene), Idempotency_Key="k1")
    assert first.status_code == again.status_code == 202
    assert again.json() == first.json()
    assert again["Location"] == first["Location"]
    assert Job.objects.count() == 1


def test_the_same_key_with_another_body_is_refused(scene: Scene, api: People) -> None:
    api("owner").post("vms/", create_body(scene), Idempotency_Key="k1")
    other = api("owner").post("vms/", create_body(scene, name="other"), Idempotency_Key="k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert Job.objects.count() == 1


def test_a_key_belongs_to_one_grant_and_one_endpoint(scene: Scene, api: People) -> None:
    jobs = {
        api("owner").post(f"vms/{scene.stopped.pk}/start/", {}, Idempotency_Key="k1").json()["job"]["id"],
        api("owner").post(f"vms/{scene.running.pk}/reset/", {}, Idempotency_Key="k1").json()["job"]["id"],
        api("tenant_administrator").post("vms/", create_body(scene), Idempotency_Key="k1").json()["job"]["id"],
    }
    assert len(jobs) == Job.objects.count() == 3


def test_a_refusal_is_kept_in_the_journal_and_not_under_the_key(scene: Scene, api: People) -> None:
    path = f"vms/{scene.running.pk}/start/"
    assert api("owner").post(path, {}, Idempotency_Key="k1").status_code == 409
    assert AuditEvent.objects.get(action="vm.start").outcome == "refused"
    Vm.objects.update(state="stopped")
    assert api("owner").post(path, {}, Idempotency_Key="k1").status_code == 202


def test_a_key_is_forgotten_after_a_day(scene: Scene, api: People) -> None:
    api("owner").post("vms/", create_body(scene), Idempotency_Key="k1")
    IdempotencyKey.objects.update(created=timezone.now() - timedelta(hours=25))
    again = api("owner").post("vms/", create_body(scene, name="another"), Idempotency_Key="k1")
    assert again.status_code == 202
    assert Job.objects.count() == 2


@pytest.mark.parametrize("key", ["", "x" * 201, "tab\there"])
def test_a_key_that_cannot_be_kept_is_refused(scene: Scene, api: People, key: str) -> None:
    answer = api("owner").post("vms/", create_body(scene), Idempotency_Key=key)
    assert answer.status_code == 400
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_requests_at_once_with_one_key_make_one_job(scene: Scene, api: People, redis_socket: Any) -> None:
    answers: list[Any] = []
    begin = threading.Barrier(2)
    body = create_body(scene)

    def ask() -> None:
        owner = api("owner")
        begin.wait()
        answers.append(owner.post("vms/", body, Idempotency_Key="k1"))
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert Job.objects.count() == 1


# --- words to a job ---------------------------------------------------------------------------------------------


def test_a_waiting_job_can_be_cancelled_and_moved_in_the_line(scene: Scene, api: People) -> None:
    api("administrator").post(f"vms/{scene.stopped.pk}/start/")
    job = api("administrator").post(f"vms/{scene.stopped.pk}/stop/").json()["job"]["id"]
    moved = api("administrator").post(f"jobs/{job}/priority/", {"priority": 5})
    assert (moved.status_code, moved.json()["priority"]) == (202, 5)
    told = api("administrator").post(f"jobs/{job}/cancel/")
    assert (told.status_code, told.json()["cancel_requested"]) == (202, True)
    assert told["Location"] == f"/api/v1/jobs/{job}/"


@pytest.mark.parametrize(
    ("word", "body", "field"),
    [
        ("cancel", {"because": "x"}, "because"),
        ("priority", {}, "priority"),
        ("priority", {"priority": 10**30}, "priority"),
        ("resolve", {"outcome": "perhaps", "note": "x"}, "outcome"),
        ("resolve", {"outcome": "done", "note": ""}, "note"),
    ],
)
def test_a_word_with_a_bad_body_is_refused_by_its_field(
    scene: Scene, api: People, word: str, body: Any, field: str
) -> None:
    job = api("administrator").post(f"vms/{scene.stopped.pk}/start/").json()["job"]["id"]
    answer = api("administrator").post(f"jobs/{job}/{word}/", body)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])
    assert api("stranger").post(f"jobs/{job}/{word}/", body).status_code == 404


def test_a_tenant_hears_of_no_node_and_no_pool_in_any_reason(scene: Scene, api: People) -> None:
    job = api("owner").post(f"vms/{scene.running.pk}/reset/").json()["job"]["id"]
    error = {"code": "no_room", "facts": {"pool": "p1", "node": "n1", "free": 1, "needed": 2}, "cause": "n1:/srv/p1"}
    Job.objects.filter(pk=job).update(waiting_reason={"code": "node_offline", "facts": {"node": "n1"}}, error=error)
    Step.objects.filter(job=job).update(error={"code": "odd", "facts": {}, "cause": "n1:/srv/p1"})
    Vm.objects.filter(pk=scene.stopped.pk).update(state="unknown")
    paths = (f"jobs/{job}/", f"vms/{scene.stopped.pk}/actions/", "jobs/")
    for person, hidden in (("owner", True), ("tenant_administrator", True), ("administrator", False)):
        words = "".join(api(person).get(path).content.decode() for path in paths)
        words += api(person).post(f"vms/{scene.stopped.pk}/start/").content.decode()
        words += api(person).post(f"vms/{scene.stopped.pk}/start/?dry_run=true").content.decode()
        assert ("n1" in words or "p1" in words) is not hidden, words


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only a server lets two writers wait for each other")
@pytest.mark.django_db(transaction=True)
def test_a_create_that_the_database_ends_for_a_deadlock_is_tried_again(
    scene: Scene, api: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_pool, has_node = threading.Event(), threading.Event()
    reserve_room = placement.reserve_room

    def with_the_node_in_hand(pool: str, size_bytes: int) -> None:
        has_node.set()
        reserve_room(pool, size_bytes)

    def the_other_way_round() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL deadlock_timeout = '60s'")  # so that the other one is ended
                Pool.objects.update(version=F("version") + 1)
                has_pool.set()
                has_node.wait(60)
                Node.objects.update(version=F("version") + 1)
        finally:
            connection.close()

    monkeypatch.setattr(placement, "reserve_room", with_the_node_in_hand)
    other = threading.Thread(target=the_other_way_round)
    other.start()
    has_pool.wait(60)
    answer = api("owner").post("vms/", create_body(scene))
    other.join()
    assert answer.status_code == 202
    assert Vm.objects.filter(name="new").count() == 1
