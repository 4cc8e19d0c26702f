"""From a benchmark's download to the photos and label maps that are read.

Raw files are only read. Each file is written whole or not at all, so that a run that was stopped goes on
where it was: what is there and complete, also by the scripts of SAN, EBSeg or Mask2Former, is left alone.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from ebseg.data.catalogue import Benchmark, Split, class_facts, find_benchmark, holds_files
from ebseg.data.conversions import (
    DetailPhoto,
    Ids,
    read_coco,
    read_colours,
    read_detail,
    read_grey,
    read_mat,
    read_photo,
    shrink,
    to_label_map,
)
from ebseg.data.folder import CONVERTED
from ebseg.data.orphans import end_with_parent
from ebseg.errors import DataError
from ebseg.files import whole, write_whole

UNLABELLED = "unlabelled.txt"
"""File beside COCO-Stuff's label maps: names of those that are not written, having no label anywhere."""

_SHRUNK = "ade20k-847"  # its photos are made smaller; the other benchmarks' are copied or stay
_LEFT_OUT = "coco-stuff-171"  # its label maps without any label are not written
_CHUNK = 16  # jobs that a worker gets at once
_ENDS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9"}


@dataclass(frozen=True)
class Job:
    """A photo to prepare for benchmark ``name``.

    ``raw``: its raw annotation, a file or a photo of PASCAL in Detail. ``label_map``: the file to write.
    ``photo`` is the photo to write, from ``raw_photo``; both are None where photos stay where they are.
    """

    name: str
    raw: Path | DetailPhoto
    label_map: Path
    raw_photo: Path | None = None
    photo: Path | None = None

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.raw.file_name if isinstance(self.raw, DetailPhoto) else str(self.raw)


@dataclass(frozen=True)
class Conversion:
    """What came of a job. ``error``: what is wrong with its raw files; ``unlabelled``: it has no label."""

    job: Job
    error: str | None = None
    unlabelled: bool = False


@dataclass(frozen=True)
class Plan:
    """``jobs`` are still to be done, ``done`` photos are not; ``label_maps`` is the folder of the results."""

    jobs: tuple[Job, ...]
    done: int
    label_maps: Path


def plan_conversion(name: str, root: Path, split: Split) -> Plan:
    """Find what of a benchmark's split below ``root`` is still to be prepared.

    Raises ConfigError for an unknown name or split, and DataError where raw parts are missing, names what
    they are and where they come from, where a list of photos cannot be read, where there is nothing to
    prepare and nothing is prepared, and where results would fall among the raw files.
    """
    benchmark = find_benchmark(name)
    part = benchmark.part(split)
    if missing := benchmark.missing(root, split):
        raise DataError(f"{name} ({split}) cannot be prepared below {root}: {'; '.join(missing)}")
    raw = {row.name: path for row in benchmark.raw if (path := row.find(root, part)) is not None}
    photos, label_maps = _output(benchmark, root, split)
    jobs = list(_JOBS[name](_Folders(name, split, raw, photos, label_maps)))
    if not jobs and benchmark.state(root, split) != "prepared":
        listing = benchmark.raw[-1]
        raise DataError(
            f"{raw[listing.name]} holds no label maps for {name} ({split}); "
            f"unpack {listing.origin.format(part)}"
        )
    unlabelled = _read_unlabelled(label_maps)
    waiting = tuple(
        job
        for job in map(_without_finished_photo, jobs)
        if job.label_map.name not in unlabelled and (job.photo or not _complete(job.label_map))
    )
    for target in {path.parent for job in waiting for path in (job.label_map, job.photo) if path}:
        _refuse_raw(target, raw.values())
    return Plan(waiting, len(jobs) - len(waiting), label_maps)


def convert_all(plan: Plan, workers: int) -> Iterator[Conversion]:
    """Do a plan's jobs in ``workers`` processes, in this one where that is 1; yield what came of each.

    A broken raw file is told of in its outcome, and the others are done. Raises DataError where a process is
    killed or a folder cannot be made, and OSError where results cannot be written. With several workers the
    main module must be one that can be imported without starting this again.
    """
    for folder in {path.parent for job in plan.jobs for path in (job.label_map, job.photo) if path}:
        _make(folder)
    unlabelled = _read_unlabelled(plan.label_maps)
    found = len(unlabelled)
    try:
        for outcome in _conversions(plan.jobs, workers):
            if outcome.unlabelled:
                unlabelled.add(outcome.job.label_map.name)
            yield outcome
    finally:
        if len(unlabelled) > found:
            write_whole(plan.label_maps / UNLABELLED, "".join(f"{name}\n" for name in sorted(unlabelled)))


def count_unlabelled(label_maps: Path) -> int:
    """Count the photos of a folder that have no label map because nothing in them is labelled."""
    return len(_read_unlabelled(label_maps))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be made ({error.strerror}): remove the file or broken link that is "
            "in its way, or allow writing there"
        ) from error


def _conversions(jobs: tuple[Job, ...], workers: int) -> Iterator[Conversion]:
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(convert, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        try:
            yield from pool.map(convert, jobs, chunksize=min(_CHUNK, -(-len(jobs) // workers)))
        except BrokenProcessPool as error:
            raise DataError(
                "a process that converts label maps was killed: give it more memory, or take fewer "
                "--workers; the same command goes on from here"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process ends it
    end_with_parent()


def convert(job: Job) -> Conversion:
    """Convert a raw annotation and write the label map and, where the job says so, the photo."""
    photo, source = None, job.title
    try:
        label_map = to_label_map(job.name, _ids(job))
        if job.name == _SHRUNK and job.raw_photo:
            source = str(job.raw_photo)
            photo = read_photo(job.raw_photo)
            if photo.shape[:2] != label_map.shape:
                raise ValueError(f"not of the same size as its label map {job.title}")
            photo, label_map = shrink(photo, label_map)
        elif job.raw_photo and not job.raw_photo.is_file():
            return Conversion(job, f"{job.raw_photo} is missing")
    except FileNotFoundError as error:
        return Conversion(job, f"{error.filename} is missing")
    except Exception as error:  # damaged files make Pillow and SciPy raise almost anything
        return Conversion(job, f"{source}: cannot be converted ({error}); get the file again")
    if job.name == _LEFT_OUT and (label_map == class_facts(job.name).ignore).all():
        return Conversion(job, unlabelled=True)
    if job.photo and photo is not None:
        _write(job.photo, partial(Image.fromarray(photo).save, format="JPEG"))
    elif job.photo and job.raw_photo:
        _write(job.photo, partial(shutil.copyfile, job.raw_photo))
    kind = "TIFF" if label_map.dtype == np.uint16 else "PNG"
    _write(job.label_map, partial(Image.fromarray(label_map).save, format=kind))
    return Conversion(job)


def _ids(job: Job) -> Ids:
    if isinstance(job.raw, DetailPhoto):
        return job.raw.ids()
    return _READERS[job.name](job.raw)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that nobody ever sees half of it."""
    with whole(path) as unfinished:
        write(unfinished)


_READERS: dict[str, Callable[[Path], Ids]] = {
    "coco-stuff-171": read_coco,
    "voc-20": read_grey,
    "pascal-context-459": read_mat,
    "ade20k-150": read_grey,
    "ade20k-847": read_colours,
}


@dataclass(frozen=True)
class _Folders:
    """Where a benchmark's split is read from and written to. ``raw``: where each raw part is, by its name."""

    name: str
    split: Split
    raw: dict[str, Path]
    photos: Path
    label_maps: Path


def _folder_jobs(folders: _Folders) -> Iterator[Job]:
    """COCO-Stuff and ADE20K-150: every PNG of a folder but for others' conversions that lie beside."""
    source = list(folders.raw.values())[-1]
    end = _ending(folders.label_maps)
    for file in sorted(source.glob("*.png")):
        if not file.stem.endswith("TrainIds") and not file.name.startswith("."):
            yield Job(folders.name, file, folders.label_maps / f"{file.stem}{end}.png")


def _listed_jobs(folders: _Folders) -> Iterator[Job]:
    """VOC: the PNGs that a list names."""
    names, source = folders.raw["list of photos"], folders.raw["label maps"]
    end = _ending(folders.label_maps)
    try:
        lines = names.read_text(encoding="utf-8").split()
    except ValueError as error:
        raise DataError(
            f"{names}: cannot be read as a list of photos ({error}); get the file again"
        ) from error
    for line in lines:
        stem = _plain(line, names)
        yield Job(folders.name, source / f"{stem}.png", folders.label_maps / f"{stem}{end}.png")


def _context_jobs(folders: _Folders) -> Iterator[Job]:
    """PASCAL-Context: the photos of PASCAL in Detail, with its masks or with .mat files."""
    detail, mats = folders.raw["PASCAL in Detail annotations"], folders.raw.get("label maps (.mat)")
    for row in read_detail(detail, folders.split):
        name = _plain(row.file_name, detail)
        stem = Path(name).stem
        source = mats / f"{stem}.mat" if mats else row
        target = folders.label_maps / f"{stem}{'.tif' if mats else '.png'}"
        yield Job(folders.name, source, target, folders.raw["photos"] / name, folders.photos / name)


def _full_ade_jobs(folders: _Folders) -> Iterator[Job]:
    """Full ADE20K: every photo in the folders of scenes; beside it lies NAME_seg.png.

    The index (index_ade20k.pkl) says the same, but pickles of others are not opened.
    """
    for place, subfolders, files in os.walk(folders.raw["photos and label maps"]):
        names = sorted(file for file in files if file.endswith(".jpg") and not file.startswith("."))
        stems = [name.removesuffix(".jpg") for name in names]
        subfolders[:] = sorted(set(subfolders).difference(stems))  # those hold the photos' single objects
        for name, stem in zip(names, stems, strict=True):
            source, target = Path(place, f"{stem}_seg.png"), folders.label_maps / f"{stem}.tif"
            yield Job(folders.name, source, target, Path(place, name), folders.photos / name)


_JOBS: dict[str, Callable[[_Folders], Iterable[Job]]] = {
    "coco-stuff-171": _folder_jobs,
    "voc-20": _listed_jobs,
    "pascal-context-59": _context_jobs,
    "pascal-context-459": _context_jobs,
    "ade20k-150": _folder_jobs,
    "ade20k-847": _full_ade_jobs,
}


def _output(benchmark: Benchmark, root: Path, split: Split) -> tuple[Path, Path]:
    """Choose the folders of photos and label maps: those that somebody has begun, else the first that fit."""
    places = benchmark.places(root, split)
    if not benchmark.copies_photos:
        places = [pair for pair in places if pair[0].is_dir()]
    return next((pair for pair in places if holds_files(pair[1])), places[0])


def _ending(label_maps: Path) -> str:
    """Name label maps as those that are there: the others would not be looked at."""
    return CONVERTED if any(label_maps.glob(f"*{CONVERTED}.png")) else ""


def _plain(name: str, source: Path) -> str:
    """Let no list of names lead out of the folder of results."""
    if Path(name).name != name or name.startswith("."):
        raise DataError(f"{source}: {name!r} is not the plain name of a file; get the file again")
    return name


def _refuse_raw(target: Path, raw: Iterable[Path]) -> None:
    for path in raw:
        if path.is_dir() and target.resolve().is_relative_to(path.resolve()):
            raise DataError(f"{target} is a part of the raw files in {path}: remove that link")


def _without_finished_photo(job: Job) -> Job:
    """Leave a photo alone that is there to its end, as others may have encoded it anew."""
    if not job.photo or not job.raw_photo or not job.photo.is_file():
        return job
    if job.name == _SHRUNK:
        finished = _complete(job.photo) and _complete(job.label_map)
    else:  # a raw photo may have bytes behind its end, and so has its copy
        finished = (
            _complete(job.photo)
            or not job.raw_photo.is_file()
            or job.photo.stat().st_size == job.raw_photo.stat().st_size
        )
    return replace(job, photo=None) if finished else job


def _complete(path: Path) -> bool:
    """Tell whether a picture is there to its end: others' scripts, when stopped, leave halves."""
    try:
        if path.suffix in _ENDS:
            end = _ENDS[path.suffix]
            with path.open("rb") as stream:
                stream.seek(-len(end), os.SEEK_END)
                return stream.read() == end
        with Image.open(path) as image:
            image.load()
        return True
    except (OSError, ValueError, SyntaxError):
        return False


def _read_unlabelled(label_maps: Path) -> set[str]:
    path = label_maps / UNLABELLED
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else set()
