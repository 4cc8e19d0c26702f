"""Whatever a COCO file holds, an import stores what is right of it, or says what is wrong."""

import json
import random
from pathlib import Path

from ebseg.data.mask_sets import SourceName, open_masks
from ebseg.errors import DataError
from tests.unit.mutations import mutated
from tests.unit.training.exchange_world import ExchangeWorld, blocks
from tests.unit.training.test_importing import box, masks, write_coco
from training.annotations.importing import Imported, import_masks

ROUNDS = 600


def attempt(world: ExchangeWorld, path: Path) -> Imported | None:
    studio, photos, _, project, settings = world.given
    try:
        return import_masks(studio, photos, project, settings, open_masks(path, SourceName.COCO))
    except DataError as error:
        assert str(error)
        return None


def test_damaged_files_end_in_words(tmp_path, caplog):
    world = ExchangeWorld(tmp_path / "home")
    for name in "abc":
        world.add(f"/{name}.png")
    path = tmp_path / "masks.json"
    photos = {f"{name}.png": [*masks(blocks(seed)), box()] for seed, name in enumerate("abc")}
    whole = json.loads(write_coco(path, photos).read_text())
    chance, stored = random.Random(0), 0
    for _ in range(ROUNDS):
        world.fake.predictions.clear()
        path.write_text(json.dumps(mutated(whole, chance)))
        done = attempt(world, path)
        stored += len(done.stored) if done else 0
    assert stored > ROUNDS / 10
    assert "nobody foresaw" not in caplog.text
