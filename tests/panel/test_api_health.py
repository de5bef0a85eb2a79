"""What machines ask of the panel."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import Client, override_settings

from cluster.keys import ALIVE_KEY
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene

pytestmark = pytest.mark.django_db


@pytest.fixture
def heartbeat(redis_socket: Path) -> Any:
    client = redis.Redis(unix_socket_path=str(redis_socket))
    client.set(ALIVE_KEY, "1")
    yield client
    client.delete(ALIVE_KEY)
    client.close()


def test_the_panel_is_ready_while_all_its_parts_answer(client: Client, heartbeat: Any) -> None:
    assert client.get("/readyz").json() == {
        "ready": True,
        "checks": {"database": "ok", "migrations": "ok", "redis": "ok", "conductor": "ok"},
    }
    heartbeat.delete(ALIVE_KEY)
    silent = client.get("/readyz")
    assert silent.status_code == 503
    assert silent.json()["checks"]["conductor"] == "silent"


def test_the_panel_lives_but_is_not_ready_without_redis(client: Client, tmp_path: Path) -> None:
    with override_settings(REDIS_WEB_URL=f"unix://{tmp_path}/nothing.sock?db=0"):
        missing = client.get("/readyz")
        assert missing.status_code == 503
        assert missing.json()["checks"]["redis"] == "does not answer"
        assert client.get("/healthz").json() == {"alive": True}


def test_waiting_for_the_panel_writes_one_line_and_no_error(
    client: Client, heartbeat: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.get("/readyz").status_code == 200
    caplog.clear()
    caplog.set_level(logging.INFO)
    heartbeat.delete(ALIVE_KEY)
    for _ in range(3):
        assert client.get("/readyz").status_code == 503
    heartbeat.set(ALIVE_KEY, "1")
    client.get("/readyz")
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [("INFO", "not ready: conductor silent"), ("INFO", "ready")]


def test_numbers_are_for_this_machine_and_for_people_who_may_see_nodes(
    scene: Scene, client: Client, api: Callable[[str], Api]
) -> None:
    text = client.get("/metrics").content.decode()
    assert 'ulei_vms{state="running"} 1\n' in text
    assert 'ulei_nodes{state="online"} 1\n' in text
    assert 'ulei_jobs{state="stuck"} 0\n' in text
    far = {"REMOTE_ADDR": "192.0.2.1"}
    assert client.get("/metrics", **far).status_code == 404
    assert api("owner").client.get("/metrics", **far).status_code == 404
    assert api("read_only").client.get("/metrics", **far).status_code == 200
