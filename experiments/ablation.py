"""What each part of the inference is worth: one row a preset, J, F and seconds a frame, for any model and DAVIS root.

    python -m experiments.ablation --davis DAVIS --split dev --model MODEL [--with-position MODEL] --out ablation

The paper's four rows are position × adaptation; the position is an input of the network, so the two rows that have it need
a second model, trained with it (`pmljax train --position yx`). Without one they are left out, which the table says.
The rows beyond the paper change one thing each, from plain retrieval up and from two starting points; then come the presets.
The model must not have seen the split: `small`, which comes with the package, has seen all of DAVIS-2016's training sequences.
A frame is embedded once for all rows that embed it alike. Seconds are medians, compilation left out: the embedding's plus
the labelling's. OUT/rows holds every finished (row, sequence): stopped, the same command goes on. OUT gets table.md,
ablation.json, and a picture a row of the worst frame of each sequence.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from pmljax import metrics
from pmljax.adaptation import Adaptation
from pmljax.bilateral_grid import BilateralConfig
from pmljax.data import davis
from pmljax.data.overlay import ContactSheet, paint
from pmljax.device import keep_memory
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.labelling import label_embedding
from pmljax.labels import VOID, check_labels, object_ids, read_labels
from pmljax.masks import first_mask
from pmljax.model import Model, at_stride, embed
from pmljax.presets import LINES, PRESETS, Preset, preset_of
from pmljax.results import FORMAT as RULES
from pmljax.segment import start
from pmljax.terminal import progress, status
from pmljax.weights import load
from pmljax.weights.bundled import fingerprint

FORMAT = 1  # of the finished rows
PAPER = {"–, –": (0.720, 0.736), "–, adaptation": (0.732, 0.750), "position, –": (0.743, 0.781)}
PAPER["position, adaptation"] = (0.755, 0.793)  # the paper's table, as sydney0zq's README has it: all 20 sequences

plain, default, best, paper = (PRESETS[name] for name in ("plain", "default", "best", "paper"))
solver = BilateralConfig(smoothness=8.0)
pure = Preset(size=LINES)  # the first frame as it is, alone
# Two starting points, of which one thing after the other is changed.
base = Preset(k=10, hard=False, temperature=0.07, adaptation=Adaptation(frames=5, window=6))
second = replace(base, temperature=0.15, adaptation=Adaptation(frames=8, window=6, bound=0.2))


def adapted(preset: Preset, **changes: Any) -> Preset:
    """The preset with changes to its adaptation."""
    return replace(preset, adaptation=replace(preset.adaptation, **changes))


def smoothed(preset: Preset, smoothness: float) -> Preset:
    """The preset with another λ of its solver."""
    assert preset.solver is not None
    return replace(preset, solver=replace(preset.solver, smoothness=smoothness))


FOUR = {"–": replace(paper, adaptation=Adaptation()), "adaptation": paper}
BEYOND = {
    "plain": plain,
    "plain, augmented 0": pure,
    "plain, majority": replace(pure, majority=True),
    "plain, majority, adaptation (the paper's without its solver)": replace(paper, solver=None),
    "plain, shares": replace(pure, hard=False),
    "plain, shares, k 10, temperature": replace(base, adaptation=Adaptation()),
    "plain, solver": replace(pure, solver=solver),
    "base": base,
    "base, last frame alone": adapted(base, frames=1),
    "base, 3 frames": adapted(base, frames=3),
    "base, 8 frames": adapted(base, frames=8),
    "base, 5 of every second": adapted(base, every=2),
    "base, window 3": adapted(base, window=3),
    "base, window 4": adapted(base, window=4),
    "base, window 9": adapted(base, window=9),
    "base, no window": adapted(base, window=None),
    "base, unanimous": adapted(base, rule="unanimous"),
    "base, bound .2": adapted(base, bound=0.2),
    "base, drift .6": adapted(base, drift=0.6),
    "base, erosion 1": adapted(base, erosion=1),
    "base, hard references": replace(base, hard=True),
    "base, temperature .03": replace(base, temperature=0.03),
    "base, temperature .15": replace(base, temperature=0.15),
    "base, k 5": replace(base, k=5),
    "base, k 20": replace(base, k=20),
    "base, solver": replace(base, solver=solver),
    "base, flip": replace(base, flip=True),
    "base, stride 4": adapted(replace(base, stride=4), window=12),
    "second": second,
    "second, erosion 1": adapted(second, erosion=1),
    "second, window 9": adapted(second, window=9),
    "second, 12 frames, erosion 1": adapted(second, frames=12, erosion=1),
    "second, erosion 1, solver": replace(adapted(second, erosion=1), solver=solver),
    "second, erosion 1, solver, flip": replace(adapted(second, erosion=1), solver=solver, flip=True),
    "second, no window, unanimous, k 5, solver": replace(
        adapted(second, window=None, rule="unanimous"), k=5, solver=solver
    ),
    "paper, flip": replace(paper, flip=True),
    "default, no reach": adapted(default, reach=None),
    "default, reach 3": adapted(default, reach=3),
    "default, reach 6": adapted(default, reach=6),
    "default, reach 9": adapted(default, reach=9),
    "default, reach 12": adapted(default, reach=12),
    **{f"default, {name} 0": adapted(default, **{name: 0}) for name in ("older", "memory", "augmented")},
    "best, older 0": adapted(best, older=0),
    "default, 3 older of 6": adapted(default, frames=6, older=3),
    "best, memory 0": adapted(best, memory=0),
    "default, temperature .1": replace(default, temperature=0.1),
    "default, temperature .2": replace(default, temperature=0.2),
    **{f"default, stretch {n}": replace(default, stretch=n) for n in (0.0, 0.5, 2.0)},
    "best, stretch 0.0": replace(best, stretch=0.0),
    **{f"default, λ {n}": smoothed(default, float(n)) for n in (4, 8, 16, 32, 64, 128, 256)},
    "best, λ 64": smoothed(best, 64.0),
    "best, no reach": adapted(best, reach=None),
    "best, 480 lines": replace(adapted(best, window=9, reach=9), size=480),
    # Frames smaller than 480 lines as they are; then the presets, which enlarge them.
    "plain, not enlarged": replace(plain, size=480),
    "default, not enlarged": replace(default, size=480),
    "default": default,
    "best": best,
}


class Row(NamedTuple):
    name: str
    model: Model
    preset: Preset

    @property
    def embedding(self) -> tuple[str, int | None, bool, int | None]:
        """What its embeddings depend on."""
        return fingerprint(self.model), self.preset.stride, self.preset.flip, self.preset.size


def rows_of(model: Model, positioned: Model | None, wanted: list[str]) -> list[Row]:
    """The rows that there are models for, without those that mirror what must not be; `wanted`: names (all by default).
    InputError for names that no row has."""
    rows = [Row(f"–, {name}", model, preset) for name, preset in FOUR.items()]
    if positioned:
        rows += [Row(f"position, {name}", positioned, preset) for name, preset in FOUR.items()]
    for name, preset in BEYOND.items():  # the presets' own rows are what the commands compute with this network
        rows.append(Row(name, model, preset_of(model.config, name) if name in PRESETS else preset))
    rows = [row for row in rows if row.model.config.mirrors or not row.preset.flip]
    if unknown := [name for name in wanted if name not in {row.name for row in rows}]:
        raise InputError(f"--rows {', '.join(unknown)}: expected some of {'; '.join(row.name for row in rows)}")
    return [row for row in rows if not wanted or row.name in wanted]


# One sequence


class Video(NamedTuple):
    """A sequence, decoded: frames, their numbers, names, the first frame's labels, and the truth of the frames that count."""

    name: str
    images: list[np.ndarray]
    numbers: list[int]
    names: list[str]
    mask: np.ndarray
    truth: dict[str, np.ndarray]


def read(root: Path, name: str, year: int) -> Video:
    sequence = davis.open_sequence(root, name)
    frames = sequence.frames()
    stamped = list(frames.stamped())
    truth = {}
    for frame, path in sequence.counted():
        labels = check_labels(read_labels(path), str(path), frames.size)
        labels = np.where(labels == VOID, 0, labels).astype(np.uint8)
        truth[frame] = (labels > 0).astype(np.uint8) if year == 2016 else labels
    mask = first_mask(sequence, frames, year)[0]
    return Video(name, [f.image for f in stamped], [f.number for f in stamped], [f.name for f in stamped], mask, truth)


def embed_video(row: Row, video: Video) -> tuple[list[jax.Array], float]:
    """(every frame's embedding, median seconds of one)."""
    model = at_stride(row.model, row.preset.stride)
    one = jax.jit(lambda m, f, n: embed(m, f[None], n[None], row.preset.size, flip=row.preset.flip)[0])
    out, seconds = [], []
    for image, number in zip(video.images, video.numbers, strict=True):
        begin = time.perf_counter()
        out.append(jax.block_until_ready(one(model, image, np.float32(number))))
        seconds.append(time.perf_counter() - begin)
    return out, float(np.median(seconds[1:]))


def label_video(row: Row, video: Video, embeddings: list[jax.Array]) -> Iterator[tuple[np.ndarray, float]]:
    """(labels, seconds) of every frame after the first, from its embedding: what `segment` computes."""
    config = at_stride(row.model, row.preset.stride).config
    state = start(row.model, video.images[0], video.mask, number=video.numbers[0], preset=row.preset)
    references = state.references
    for i in range(1, len(video.images)):
        begin = time.perf_counter()
        result = label_embedding(config, references, embeddings[i], video.images[i], np.int32(i), preset=row.preset)
        references = jax.block_until_ready(result).references
        yield np.asarray(result.labels), time.perf_counter() - begin


def score_video(
    row: Row, video: Video, embeddings: list[jax.Array], embedding: float
) -> tuple[dict[str, Any], np.ndarray]:
    """(scores and seconds, the worst frame with its labels)."""
    ids = object_ids(video.mask)
    with ThreadPoolExecutor(1) as pool:
        waiting, seconds, labels = {}, [], {}
        for i, (found, took) in enumerate(label_video(row, video, embeddings), 1):
            seconds.append(took)
            if (name := video.names[i]) in video.truth:
                waiting[i] = pool.submit(metrics.frame_scores, found, video.truth[name], ids)
                labels[i] = found
        scores = np.stack([w.result() for w in waiting.values()])  # [t, o, 2]
    at = list(waiting)[int(scores.mean((1, 2)).argmin())]
    result = {
        "scores": {f"{video.name}_{k}": scores[:, i].tolist() for i, k in enumerate(ids)},
        "embed": embedding,
        "label": float(np.median(seconds[1:])),
        "worst": video.names[at],
    }
    return result, paint(video.images[at], labels[at])


# All rows


def identity(row: Row, root: Path, video: str, year: int) -> dict[str, Any]:
    files = sorted((root / "Annotations" / "480p" / video).glob("*.png"))
    return {
        "format": [FORMAT, RULES],
        "weights": fingerprint(row.model),
        "preset": dataclasses.asdict(row.preset),
        "year": year,
        "frames": davis.open_sequence(root, video).frames().digest(),
        "annotations": hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest(),
    }


def finished(path: Path, expected: dict[str, Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    return record if record["identity"] == json.loads(json.dumps(expected)) else None


def place(out: Path, row: Row, sequence: str) -> Path:
    key = hashlib.sha256(row.name.encode()).hexdigest()[:8]
    return out / "rows" / f"{key}-{sequence}.json"


def run(out: Path, root: Path, names: list[str], year: int, rows: list[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """{row: {sequence: record}}, computing what is not there yet."""
    records: dict[str, dict[str, dict[str, Any]]] = {row.name: {} for row in rows}
    (out / "rows").mkdir(parents=True, exist_ok=True)
    with progress("ablation", len(names) * len(rows)) as advance:
        for name in names:
            todo = []
            for row in rows:
                record = finished(place(out, row, name), identity(row, root, name, year))
                if record:
                    records[row.name][name] = record
                    advance()
                else:
                    todo.append(row)
            if not todo:
                continue
            video = read(root, name, year)
            for kind in dict.fromkeys(row.embedding for row in todo):
                group = [row for row in todo if row.embedding == kind]
                embeddings, seconds = embed_video(group[0], video)
                for row in group:
                    record, picture = score_video(row, video, embeddings, seconds)
                    record = {"identity": identity(row, root, name, year), "row": row.name, **record}
                    path = place(out, row, name)
                    Image.fromarray(picture).save(path.with_suffix(".png"))
                    write_file(path, json.dumps(record).encode())
                    records[row.name][name] = record
                    advance()
    return records


def table(records: dict[str, dict[str, dict[str, Any]]], split: str) -> str:
    """The rows as Markdown, in the order of the file: means over objects, then J / F of every sequence."""
    names = list(next(iter(records.values())))
    lines = [f"{split}: {', '.join(names)}", ""]
    lines += ["| row | J | F | J&F | s a frame | " + " | ".join(names) + " | the paper's J, F |"]
    lines += ["|---|" + "---|" * (len(names) + 5)]
    for row, found in records.items():
        objects = {k: np.array(v) for r in found.values() for k, v in r["scores"].items()}
        total = metrics.table(objects)["Global"]
        seconds = float(np.median([r["embed"] + r["label"] for r in found.values()]))
        each = [np.mean([np.mean(v, 0) for v in found[n]["scores"].values()], 0) for n in names]
        cells = [f"{j:.3f} / {f:.3f}" for j, f in each]
        j, f, both = (total[c] for c in ("J-Mean", "F-Mean", "J&F-Mean"))
        theirs = ", ".join(f"{x:.3f}" for x in PAPER[row]) if row in PAPER else ""
        lines.append(f"| {row} | {j:.3f} | {f:.3f} | {both:.3f} | {seconds:.2f} | {' | '.join(cells)} | {theirs} |")
    missing = [row for row in PAPER if row not in records]
    if missing:
        lines += ["", f"Not there, for want of a model or by choice: {'; '.join(missing)}"]
    return "\n".join(lines) + "\n"


def pictures(out: Path, rows: list[Row], names: list[str], records: dict[str, dict[str, dict[str, Any]]]) -> None:
    for i, row in enumerate(rows):
        sheet = ContactSheet()
        for name in names[:12]:
            picture = np.asarray(Image.open(place(out, row, name).with_suffix(".png")))
            sheet.add(f"{name} {records[row.name][name]['worst']}", picture)
        write_file(out / f"worst-{i:02}.jpg", sheet.jpeg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--year", type=int)
    parser.add_argument("--model", required=True, help="without position: any that `pmljax segment` takes")
    parser.add_argument("--with-position", help="a model trained with position, for the paper's other two rows")
    parser.add_argument(
        "--rows", nargs="*", default=[], help="names of rows; all by default, which takes two cores hours"
    )
    parser.add_argument("--sequences", nargs="*", default=[], help="of the split; all by default")
    parser.add_argument("--out", type=Path, default=Path("ablation"))
    args = parser.parse_args()
    year, names = davis.find_split(args.davis, args.split, args.year, args.sequences)
    rows = rows_of(load(args.model), load(args.with_position) if args.with_position else None, args.rows)
    records = run(args.out, args.davis, names, year, rows)
    text = table(records, args.split)
    write_file(args.out / "table.md", text.encode())
    write_file(args.out / "ablation.json", json.dumps(records, indent=1).encode())
    pictures(args.out, rows, names, records)
    print(text)


if __name__ == "__main__":
    keep_memory()
    sys.exit(status(main))
