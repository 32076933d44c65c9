r"""The public evaluation of DAVIS interactive, the package `davisinteractive`, driving a `Session`.

    python -m experiments.davisinteractive_adapter --davis-root DAVIS --model MODEL --subset val --out di

DAVIS: a DAVIS-2017 root with `Scribbles/SEQ/00{1,2,3}.json`, as people drew them. The package gives scribbles, a session
labels all frames, the package scores them and draws the next scribbles. OUT gets its report (a row a sample, interaction,
object and frame) and summary.json: the curve, the area under it and the score at 60 s, as the challenge counts.
The package is under the GPL, so that nothing of it is here and nothing depends on it:

    pip install cython setuptools wheel pandas scikit-learn scikit-image opencv-python-headless networkx requests six \
        absl-py scipy
    pip install --no-build-isolation --no-deps davisinteractive==1.0.4

(--no-deps, since it asks for a scikit-learn of 2019, though a new one does; --no-build-isolation, since its build needs numpy.)
It was written for older NumPy, networkx and pandas: `package` puts back what it uses of them, in this process.

Seconds are the package's, from the scribbles to the labels of all frames. Embedding the video is part of every sample's
first interaction; with `--ahead` every sequence is embedded before the evaluation begins, as for a user who opens a video
before drawing. Compilation is in the first sample's either way.

Without scribbles of people, `--made-from ROOT` writes such a root to --davis-root first, of `--sequences` of any DAVIS
root in their palette form, its scribbles drawn by our robot in three of their frames: for trying the loop, no benchmark.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from experiments.interactive import Video, read
from experiments.robot import scribbles
from pmljax.data import davis
from pmljax.device import keep_memory
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.inputs import Edit
from pmljax.interact import Session
from pmljax.labels import VOID, encode_labels
from pmljax.model import Model
from pmljax.scribbles import davis_scribbles, to_davis
from pmljax.terminal import status
from pmljax.weights import load

SETS = (1, 2, 3)  # of scribbles a sequence


def package() -> tuple[Any, Any]:
    """(its session, its list of sequences); InputError where it is not installed."""
    if not find_spec("davisinteractive"):
        raise InputError(
            "davisinteractive: not installed; expected it and what it needs, as `--help` says: pip install"
            " --no-build-isolation --no-deps davisinteractive==1.0.4"
        )
    restore()
    try:
        from davisinteractive.dataset import Davis  # pyright: ignore
        from davisinteractive.evaluation import EvaluationService  # pyright: ignore
        from davisinteractive.session import DavisInteractiveSession  # pyright: ignore
    except ImportError as error:
        raise InputError(f"davisinteractive: {error}; expected what it needs, as `--help` says") from None
    summarize = EvaluationService.summarize_report
    # Old pandas' means left columns of text out and looked into columns of objects.
    EvaluationService.summarize_report = lambda self, report: summarize(
        self, report.infer_objects().select_dtypes("number").join(report["sequence"])
    )
    return DavisInteractiveSession, Davis


def restore() -> None:
    """Names that the package uses and NumPy and networkx no longer have, in this process."""
    import networkx

    gone = [(np, "int", int), (np, "float", float), (np, "trapz", np.trapezoid)]
    gone += [(networkx, "from_scipy_sparse_matrix", networkx.from_scipy_sparse_array)]
    for module, name, now in gone:
        if name not in vars(module):
            setattr(module, name, now)


def to_edits(given: dict[str, Any], size: tuple[int, int], folder: Path) -> list[Edit]:
    """The package's scribbles as inputs."""
    # Lines drawn by hand may leave the picture by a little.
    frames = [
        [{"path": np.clip(one["path"], 0, 1).tolist(), "object_id": int(one["object_id"])} for one in frame]
        for frame in given["scribbles"]
    ]
    path = folder / "scribbles.json"
    path.write_text(json.dumps({"scribbles": frames}))
    return davis_scribbles(path, size)


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """The package's summary."""
    if not 1 <= args.interactions <= 16:  # the package takes 0 for no end, and cuts off at 16
        raise InputError(f"--interactions {args.interactions}: expected 1…16")
    interactive_session, dataset = package()
    model = load(args.model)
    names = choose(args, dataset)
    if args.made_from:
        make_root(args.made_from, args.davis_root, names, dataset)
    check_root(args.davis_root, names, dataset)
    dataset.sets[args.subset] = names
    sessions = {name: open_session(model, args.davis_root, name) for name in names} if args.ahead else {}
    args.out.mkdir(parents=True, exist_ok=True)
    options = {
        "host": "localhost",
        "user_key": getpass.getuser(),
        "davis_root": str(args.davis_root),
        "subset": args.subset,
        "max_time": args.max_time,
        "max_nb_interactions": args.interactions,
        "metric_to_optimize": args.metric,
        "report_save_dir": str(args.out),
    }
    session = None
    with tempfile.TemporaryDirectory() as folder, interactive_session(**options) as public:
        while public.next():
            # Only what is new: the session remembers the rest.
            name, given, new = public.get_scribbles(only_last=True)
            if new:
                session = sessions[name] if args.ahead else open_session(model, args.davis_root, name)
                session.clear()
            assert session is not None
            for edit in to_edits(given, session.size, Path(folder)):
                session.apply(edit)
            public.submit_masks(np.stack(list(session.all_labels())))  # uint8 [t, h, w]
        summary = public.get_global_summary()
    write_file(args.out / "summary.json", json.dumps(summary, indent=1, default=float).encode())
    return summary


def open_session(model: Model, root: Path, name: str) -> Session:
    return Session(model, davis.open_sequence(root, name).frames(), cache=None)


# Its root


def choose(args: argparse.Namespace, dataset: Any) -> list[str]:
    """The sequences of the subset, all by default."""
    known = list(dataset.sets[args.subset])
    wrong = [name for name in args.sequences if name not in known]
    if wrong:
        raise InputError(
            f"--sequences {' '.join(wrong)}: expected some of the package's {args.subset}: {', '.join(known)}"
        )
    return args.sequences or known


def check_root(root: Path, names: list[str], dataset: Any) -> None:
    """InputError for a missing file, which the package would try to get from the net."""
    for name in names:
        known = dataset.dataset[name]
        needed = [root / "Scribbles" / name / f"{i:03d}.json" for i in range(1, known["num_scribbles"] + 1)]
        needed += [root / "Annotations" / "480p" / name / f"{i:05d}.png" for i in range(known["num_frames"])]
        for path in needed:
            if not path.is_file():
                raise InputError(
                    f"{path}: no such file; expected a DAVIS-2017 root with the scribbles of DAVIS interactive"
                )


def make_root(source: Path, root: Path, names: list[str], dataset: Any) -> None:
    """Such a root, with scribbles of our robot in the first, the middle and the last frame."""
    for name in names:
        video, expected = read(source, name, 2017, 1), dataset.dataset[name]["num_objects"]
        if video.objects != list(range(1, expected + 1)):
            raise InputError(f"{name}: found objects {video.objects}, expected 1…{expected}, as the package does")
        pictures, masks, drawn = (root / kind / name for kind in ("JPEGImages/480p", "Annotations/480p", "Scribbles"))
        for folder in (pictures, masks, drawn):
            folder.mkdir(parents=True, exist_ok=True)
        for i, path in enumerate(video.frames.files):
            write_file(pictures / f"{i:05d}{path.suffix}", path.read_bytes())
            write_file(masks / f"{i:05d}.png", encode_labels(video.truth[i]))
        for i, edits in zip(SETS, first_scribbles(video), strict=True):
            text = json.dumps(to_davis(name, len(video.truth), edits, video.frames.size))
            write_file(drawn / f"{i:03d}.json", text.encode())


def first_scribbles(video: Video) -> list[list[Edit]]:
    """One set of scribbles each in the first, the middle and the last frame that show an object."""
    shown = [frame for frame, truth in video.truth.items() if ((truth > 0) & (truth < VOID)).any()]
    chosen = (shown[0], shown[len(shown) // 2], shown[-1])
    return [scribbles(f, video.truth[f], np.full_like(video.truth[f], VOID)) for f in chosen]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis-root", type=Path, required=True)
    parser.add_argument("--model", default="small", help="any that `pmljax segment` takes")
    parser.add_argument("--subset", choices=("train", "val", "trainval"), default="val")
    parser.add_argument("--sequences", nargs="*", default=[], help="of the subset; all by default")
    parser.add_argument("--interactions", type=int, default=8, help="a sample")
    parser.add_argument("--max-time", type=int, help="seconds a sample and object; the challenge: 30 × 8")
    parser.add_argument("--metric", choices=("J", "F", "J_AND_F"), default="J_AND_F")
    parser.add_argument("--ahead", action="store_true", help="embed all sequences before the evaluation begins")
    parser.add_argument("--made-from", type=Path, help="a DAVIS root of which --davis-root is made first")
    parser.add_argument("--out", type=Path, default=Path("davisinteractive"))
    args = parser.parse_args()
    return status(lambda: print(json.dumps(evaluate(args), indent=1, default=float)))


if __name__ == "__main__":
    keep_memory()
    sys.exit(main())
