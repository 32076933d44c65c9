"""Our network beside the same in PyTorch: same weights, same inputs, one table and one picture.

    python -m experiments.compare_torch --out compared
    python -m experiments.compare_torch --model imported --video clip.mp4 --mask first.png --out compared

Without --model: the network of --config with random weights, norms and statistics random too. With it: whatever `--model` of
the commands takes, an import of PyTorch's weights among them, or PyTorch's own file (then --layout where a bare trunk needs
it). Without --video: a made clip. The other side is tests/torch_reference.py, which knows batch normalisation, stride 8 and
unit length.

Errors are max|a − b|, and that over max|b|; "rounding" is the second of PyTorch's float32 against its own float64. A gradient
may differ by more than its sums round: where an activation is so near zero that rounding decides on which side it lies, a
whole cell's part of the gradient is there or not. In float64 both sides agree to 1e-13 (tests/test_parity.py).

Each side runs in a process of its own (compare_sides.py), one after the other, so that its memory is its own: the peak above
what it held with the libraries and the inputs loaded. Seconds are medians of warm, finished calls; our compile time is a line
of its own. Both in float32, PyTorch 2.13 eager. ResNet-101 at 480×854: five minutes on two cores, of which one is compiling.

Writes OUT/errors.json (every row, every gradient) and OUT/labels.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments.compare_sides import STAGES, relative
from experiments.whole import positive

PER_LABEL = 256  # anchors


# What both sides get


def prepare(args: argparse.Namespace, work: Path) -> None:
    """Write model.safetensors and inputs.npz."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from pmljax.config import named
    from pmljax.data.sources import open_frames
    from pmljax.data.synthetic import clip
    from pmljax.errors import InputError
    from pmljax.labels import check_labels, read_labels
    from pmljax.model import Model, embed_stages
    from pmljax.sampling import cell_labels
    from pmljax.weights import load
    from pmljax.weights.bundled import shapes_of, write
    from pmljax.weights.torch import match, to_model
    from pmljax.weights.torch_files import read_tensors
    from tests.torch_reference import random_weights

    if args.video:
        opened = open_frames(args.video, end=args.frames)
        stamped = list(opened.stamped())
        frames, numbers = np.stack([s.image for s in stamped]), [float(s.number) for s in stamped]
        labels = check_labels(read_labels(args.mask), str(args.mask), frames.shape[1:3], objects=True)
    else:
        made = clip(jax.random.key(args.seed), frames=args.frames, size=tuple(args.size), objects=2)
        frames, labels = np.asarray(made.frames), np.asarray(made.labels)[0]
        numbers = [float(n) for n in range(len(frames))]
    ids = [i for i in np.unique(labels) if i not in (0, 255)]
    first = np.zeros_like(labels)  # 0…o − 1, void as background: as the reference wants it
    for column, i in enumerate(ids, 1):
        first[labels == i] = column

    if args.model is None:
        config = dataclasses.replace(named(args.config), input_size=None)
        config = dataclasses.replace(config, **({"depth": args.depth} if args.depth else {}))
        flat = random_weights(shapes_of(config), args.seed)
        model = Model(unflatten_dict({k: jnp.asarray(x, jnp.float32) for k, x in flat.items()}, sep="/"), config)
        # Embeddings of random weights all point the same way, and rounding would choose their neighbours.
        head = jax.jit(embed_stages)(model, frames[:1], np.float32(numbers[:1])).stages["head"]
        last = model.variables["params"]["head"][f"conv{len(config.head)}"]
        last["bias"] = last["bias"] - head.mean((0, 1, 2))
    elif Path(args.model).suffix in (".pth", ".pt") or args.layout:
        tensors = read_tensors(Path(args.model))
        model = to_model(tensors, match(tensors, args.layout), jax.random.key(args.seed))
    else:
        model = load(args.model, seed=args.seed)
    c = model.config
    if c.norm != "batch" or c.stride != 8 or not c.unit or c.taps != (4,) or not c.depth:
        raise InputError(f"model {c.name}: expected batch normalisation, stride 8, unit length, taps (4,)")
    write(work / "model.safetensors", model, dtype=np.float32)

    # The loss: crops of three frames about the object, each taken as a whole picture.
    side = min(args.crop, *frames.shape[1:3])
    y, x = (
        int(np.clip(np.mean(p) - side / 2, 0, n - side)) for p, n in zip(np.nonzero(first), first.shape, strict=True)
    )
    which = [0, len(frames) // 2, len(frames) - 1]
    crops = frames[which, y : y + side, x : x + side]
    # Of the later frames no labels are known: the first frame's stand in for them, the loss does not mind.
    cells = np.asarray(cell_labels(jnp.asarray(first[y : y + side, x : x + side]), c.grid((side, side)))).ravel()
    rng = np.random.default_rng(args.seed)
    anchors = np.concatenate([rng.choice(np.flatnonzero(cells == k), PER_LABEL) for k in np.unique(cells) if k != 255])
    np.savez(
        work / "inputs.npz",
        frames=frames,
        numbers=np.float32(numbers),
        first=first,
        crops=crops,
        crop_numbers=np.float32(numbers)[which],
        cells=np.stack([cells] * 3),
        anchors=anchors,
    )


# The table and the picture


def errors(work: Path, rounding: dict[str, float]) -> dict[str, dict[str, float]]:
    """{what: {"max": max|a − b|, "relative": that over max|b|, "rounding"}}, b PyTorch's; of the labels how many differ."""
    ours, theirs = np.load(work / "jax.npz"), np.load(work / "torch.npz")
    assert set(ours.files) == set(theirs.files), set(ours.files) ^ set(theirs.files)
    rows = {}
    for name in theirs.files:
        a, b = ours[name], theirs[name]
        if name == "labels":
            rows[name] = {"differ": int((a != b).sum()), "pixels": a.size}
            continue
        largest, share = relative(a, b)
        rows[name] = {"max": largest, "relative": share, "rounding": rounding[name]}
    return rows


def table(rows: dict[str, dict[str, float]], sides: dict[str, dict[str, float]], every: bool) -> str:
    lines = [f"{'':38} {'max error':>10} {'relative':>10} {'rounding':>10}"]

    def line(what: str, row: dict[str, float]) -> str:
        return f"{what:38} {row['max']:10.2e} {row['relative']:10.2e} {row['rounding']:10.2e}"

    lines += [line(name, rows[f"stage/{name}"]) for name in STAGES]
    lines.append(line("loss", rows["loss"]))
    gradients = {name.removeprefix("gradient/"): row for name, row in rows.items() if name.startswith("gradient/")}
    if every:
        lines += [line(f"gradient {name}", row) for name, row in gradients.items()]
    else:
        rooms = dict.fromkeys("/".join(name.split("/")[: 2 if name.startswith("trunk") else 1]) for name in gradients)
        for room in rooms:
            inside = {n: row for n, row in gradients.items() if n.startswith(room + "/")}
            worst = {key: max(row[key] for row in inside.values()) for key in ("max", "relative", "rounding")}
            lines.append(line(f"gradients {room} (worst of {len(inside)})", worst))
    labels = rows["labels"]
    lines += [
        f"labels that differ: {labels['differ']:,} of {labels['pixels']:,}",
        "",
        f"{'':38} {'pmljax':>10} {'PyTorch':>10}",
    ]
    what = {
        "embed": "seconds, embed a frame",
        "frame": "seconds, label a frame",
        "gradient": "seconds, loss and gradient",
    }
    lines += [f"{text:38} {sides['jax'][key]:10.3f} {sides['torch'][key]:10.3f}" for key, text in what.items()]
    memory = {"memory of labels": "peak memory to label, MiB", "memory": "peak memory of all, MiB"}
    lines += [f"{t:38} {sides['jax'][m] / 2**20:10.0f} {sides['torch'][m] / 2**20:10.0f}" for m, t in memory.items()]
    lines.append(f"{'seconds of compiling, once':38} {sides['jax']['compile']:10.1f} {'-':>10}")
    return "\n".join(lines)


def picture(work: Path) -> bytes:
    """PNG: our labels, PyTorch's, and the difference in white, of the frame with the most of it."""
    import io

    from PIL import Image

    from pmljax.data.overlay import paint

    given, ours, theirs = (np.load(work / f"{name}.npz") for name in ("inputs", "jax", "torch"))
    differ = ours["labels"] != theirs["labels"]
    t = int(differ.sum((1, 2)).argmax()) if differ.any() else len(differ) - 1
    frame = given["frames"][t + 1]
    white = np.repeat(np.uint8(255) * differ[t][..., None], 3, -1)
    three = [paint(frame, ours["labels"][t]), paint(frame, theirs["labels"][t]), white]
    edge = np.full((frame.shape[0], 6, 3), 128, np.uint8)
    data = io.BytesIO()
    Image.fromarray(np.concatenate([three[0], edge, three[1], edge, three[2]], 1)).save(data, "PNG")
    return data.getvalue()


def main() -> int:
    from pmljax.errors import InputError
    from pmljax.files import write_file
    from pmljax.terminal import fail

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("compared"))
    parser.add_argument("--model", help="what the commands' --model takes, or a file of PyTorch's")
    parser.add_argument("--layout", help="of a file of PyTorch's, where its names do not say")
    parser.add_argument("--config", default="sydney0zq", help="of random weights: paper, sydney0zq, bfvos")
    parser.add_argument("--depth", type=int, choices=[18, 34, 50, 101, 152], help="of random weights")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--frames", type=positive, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 854), metavar=("H", "W"), help="of the made clip")
    parser.add_argument("--crop", type=int, default=321, help="side of the crops for loss and gradients")
    parser.add_argument("--k", type=positive, default=5)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="show every gradient")
    args = parser.parse_args()
    if (args.video is None) != (args.mask is None) or args.frames < 3:
        return fail("--video and --mask: expected both or neither; --frames: expected 3 or more")
    with tempfile.TemporaryDirectory() as folder:
        work, sides = Path(folder), {}
        try:
            prepare(args, work)
        except InputError as error:
            return fail(str(error))
        for side in ("jax", "torch"):
            options = [side, folder, "--rounds", str(args.rounds), "--k", str(args.k)]
            subprocess.run([sys.executable, "-m", "experiments.compare_sides", *options], check=True)
            sides[side] = json.loads((work / f"{side}.json").read_text())
        rows = errors(work, sides["torch"].pop("rounding"))
        args.out.mkdir(parents=True, exist_ok=True)
        write_file(args.out / "labels.png", picture(work))
    write_file(args.out / "errors.json", json.dumps({"errors": rows, "sides": sides}, indent=1).encode())
    print(table(rows, sides, args.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
