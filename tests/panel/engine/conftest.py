import pytest

from tests.panel.engine.scenarios import Scene, make_scene


@pytest.fixture
def scene(db: None) -> Scene:
    return make_scene()
