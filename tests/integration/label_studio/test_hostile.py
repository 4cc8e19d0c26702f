"""What other people send costs no more than its length: see tests/unit/label_studio/hostile.py."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_input_that_claims_or_repeats_too_much_is_cheap():
    """In a process of its own, whose memory and CPU time can be limited; one for all."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.unit.label_studio.hostile"],
        cwd=ROOT, env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0 and run.stdout.endswith("done\n"), f"{run.stdout}\n{run.stderr}"
