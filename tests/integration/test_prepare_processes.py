import os
import sys
import time
from pathlib import Path

import psutil


def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    """Pipes that nobody writes to keep both workers busy."""
    maps = tmp_path / "coco/stuffthingmaps/val2017"
    for folder in (maps, tmp_path / "coco/val2017"):
        folder.mkdir(parents=True)
    for name in ("1.png", "2.png"):
        os.mkfifo(maps / name)
    arguments = ["data", "prepare", "coco-stuff-171", "--root", str(tmp_path), "--workers", "2"]
    main = psutil.Popen([sys.executable, "-m", "ebseg", *arguments])
    try:
        while (
            len(workers := [child for child in main.children() if "spawn_main" in str(child.cmdline())]) < 2
        ):
            assert main.poll() is None
            time.sleep(0.02)
    finally:
        main.kill()
    main.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    for worker in alive:
        worker.kill()
    assert not alive
