"""What does without modules that take long to import."""

import subprocess
import sys

import pytest

from backend.commands import COMMANDS as backend_commands
from ebseg.children import python
from ebseg.commands import COMMANDS
from training.commands import COMMANDS as training_commands


def test_help_imports_nothing_that_takes_long() -> None:
    code = "import sys\nsys.argv[1:] = ['--help']\nfrom ebseg.cli import main\nmain()"
    slow = {"flask", "httpx", "mlflow", "numpy", "pydantic", "redis", "rq", "torch", "waitress"}
    assert slow & _imported(code) == set()


def test_help_and_bad_usage_of_a_command_need_no_pytorch() -> None:
    tables = (COMMANDS, training_commands, backend_commands)
    apps = [command.app for table in tables for command in table.values()]
    code = f"from pkgutil import resolve_name\nfor app in {apps}: resolve_name(app)"
    assert {"mlflow", "open_clip", "torch"} & _imported(code) == set()


def test_a_command_loads_no_compiler_and_no_other_models() -> None:
    """Predicting needs neither; the compiler is there when somebody wants it after all."""
    predicts = (
        "import sys\nsys.argv[1:] = ['predict', 'no.jpg', '--labels', 'sky']\nfrom ebseg.cli import main\n"
    )
    caught = f"{predicts}try: main()\nexcept SystemExit: import ebseg.loading"
    found = _imported(caught)
    assert {"torch", "open_clip", "torchvision"} <= found
    assert {"torch._dynamo", "torch._inductor", "timm.layers", "sympy", "scipy.optimize"} & found == set()

    compiles = (
        "import torch\nfrom torch._dynamo import utils\n"
        "from torchvision.ops.roi_align import is_compile_supported\n"
        "assert is_compile_supported('cpu') == utils.is_compile_supported('cpu')\n"
        "assert torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(1)) == 2"
    )
    assert {"torch._dynamo", "torch._inductor"} <= _imported(f"{caught}\n{compiles}")


def _imported(code: str) -> set[str]:
    """Run a program in a process of its own; give the modules that it imports."""
    whole = f"import atexit, sys\natexit.register(lambda: print('\\n' + ' '.join(sys.modules)))\n{code}"
    done = subprocess.run(python("-c", whole), capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "modules",
    ["training.queue.triggers", "training.jobs.reading, training.jobs.planning, training.jobs.sweeping"],
    ids=["who asks for jobs", "jobs that compute nothing"],
)
def test_pytorch_is_not_imported(modules):
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["parent", "child", "folder", "spec", "progress_file"])
def test_a_worker_and_a_waiting_process_do_without_pytorch(module):
    code = f"import sys, training.finetuning.{module}\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
