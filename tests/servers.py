"""Label Studio for tests: its database takes half a minute to make, so one run of the tests makes it once."""

import os
import shutil
from pathlib import Path

import pytest

from backend.demo.label_studio_server import LabelStudioServer
from backend.processes import free_port, reach_this_machine_directly
from ebseg.files import locked

EXECUTABLE = Path(__file__).parents[1] / ".venv-label-studio" / "bin" / "label-studio"


def label_studio(folder: Path, factory: pytest.TempPathFactory) -> LabelStudioServer:
    """Give a server, which nobody has used, whose data will be in ``folder``; it is not running yet."""
    reach_this_machine_directly()
    shutil.copytree(_unused(factory), folder)
    return LabelStudioServer(EXECUTABLE, folder, free_port())


def _unused(factory: pytest.TempPathFactory) -> Path:
    """Give the data of a server that ran once; the run's processes share it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    made = root / "unused-label-studio"
    with locked(root / "unused-label-studio.lock"):
        if not made.exists():
            making = root / "label-studio-in-the-making"
            with LabelStudioServer(EXECUTABLE, making, free_port()).running():
                pass
            making.rename(made)
    return made
