import subprocess
import sys

import pytest

from backend.demo.project import EBSEG
from ebseg.children import environment, python

GRANDCHILD = f"import subprocess; subprocess.run([{sys.executable!r}, '-m', 'ebseg', '--version'])"


@pytest.mark.parametrize("command", [[*EBSEG, "--version"], python("-c", GRANDCHILD)])
def test_children_and_theirs_import_nothing_from_the_working_directory(tmp_path, command):
    for name in ("ebseg", "training", "backend"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the user has {name} too')")
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout[:6]) == (0, "ebseg ")


def test_a_variable_that_is_given_wins(monkeypatch):
    monkeypatch.setenv("EBSEG_MODEL", "ebseg-tiny")
    assert environment(EBSEG_MODEL="ebseg-base")["EBSEG_MODEL"] == "ebseg-base"
