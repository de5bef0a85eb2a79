from pathlib import Path

import pytest

from tests.panel.engine.scenarios import Scene, make_scene


@pytest.fixture
def scene(db: None, library: Path) -> Scene:
    return make_scene()
