"""How the embeddings of a video lie: references and queries in the plane, and a video in the colours of its embeddings.

    python -m experiments.feature_distribution clip.mp4 --mask first.png --model MODEL --frame 20 --out features
    python -m experiments.feature_distribution DAVIS/JPEGImages/480p/dog --mask DAVIS/Annotations/480p/dog/00000.png \\
        --model MODEL --frame 20 --out features

As the paper draws its "pixel-wise feature distribution": the cells of the first frame (references, coloured by the mask's
labels) and of another frame (queries, coloured by the labels they get from them) projected to the plane, by principal
components and, where scikit-learn is installed, by t-SNE. OUT gets plane.png and colours.mp4: the first three principal
components of all frames as red, green and blue, one projection for the whole video, so that an object that keeps its
embedding keeps its colour. Needs matplotlib (`pip install 'pmljax[plots]'`).
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from experiments.whole import positive
from pmljax.data.sources import open_frames
from pmljax.data.video import VideoWriter
from pmljax.device import keep_memory
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.labelling import label_embedding
from pmljax.labels import grow_matrix, palette
from pmljax.masks import read_masks
from pmljax.model import Model, embed
from pmljax.preprocess import apply_axes
from pmljax.presets import LINES, Preset
from pmljax.references import both_axes
from pmljax.segment import start
from pmljax.terminal import progress, status
from pmljax.weights import load

PRESET = Preset(size=LINES)  # the cells that the user marked, and no others


class Components:
    """The first principal components of rows, and the range of the rows along each."""

    def __init__(self, rows: Float[np.ndarray, "n d"], count: int):
        self.mean = rows.mean(0)
        values, vectors = np.linalg.eigh(np.cov((rows - self.mean).T))
        self.axes = vectors[:, ::-1][:, :count]
        self.shares = (values[::-1] / values.sum())[:count]
        """Of the whole variance, along each."""
        self.low, self.high = np.percentile(self(rows), (1, 99), axis=0)

    def __call__(self, rows: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... c"]:
        return (rows - self.mean) @ self.axes

    def colours(self, rows: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... c"]:
        """Rows as 0…255 along each component, between its 1st and its 99th percentile."""
        return np.clip((self(rows) - self.low) / np.maximum(self.high - self.low, 1e-9), 0, 1) * 255


def draw_plane(
    references: tuple[np.ndarray, np.ndarray], queries: tuple[np.ndarray, np.ndarray], frame: str, seed: int = 0
) -> bytes:
    """A PNG: (embeddings `[n, d]`, labels `[n]`) of references as dots and of queries as rings, a panel a projection."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = np.concatenate([references[0], queries[0]])
    first = len(references[0])
    components = Components(rows, 2)
    panels = {f"principal components ({components.shares.sum():.0%} of the variance)": components(rows)}
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        print("t-SNE is left out: scikit-learn is not installed", file=sys.stderr)
    else:
        panels["t-SNE"] = TSNE(init="pca", perplexity=min(30, (len(rows) - 1) / 3), random_state=seed).fit_transform(
            rows
        )
    figure, axes = pyplot.subplots(1, len(panels), figsize=(7 * len(panels), 6), squeeze=False)
    for axis, (title, points) in zip(axes[0], panels.items(), strict=True):
        for (_, labels), at, marker, what in (
            (references, points[:first], ".", "first frame"),
            (queries, points[first:], "o", f"frame {frame}"),
        ):
            for label in np.unique(labels):
                colour = palette()[label] / 255 if label else np.array([0.6, 0.6, 0.6])
                face = {"facecolors": "none", "edgecolors": [colour]} if marker == "o" else {"color": [colour]}
                mine, name = at[labels == label], f"object {label}" if label else "background"
                axis.scatter(*mine.T, s=14, marker=marker, linewidths=0.6, alpha=0.6, label=f"{what}, {name}", **face)
        axis.set(title=title, xticks=[], yticks=[])
    axes[0, 0].legend(fontsize=8, loc="best")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    pyplot.close(figure)
    return buffer.getvalue()


def some(rng: np.random.Generator, labels: np.ndarray, most: int) -> np.ndarray:
    """Cells to draw: up to `most` of every label, as the background would hide all else."""
    chosen = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rng.permutation(cells)[:most] for cells in chosen])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a video or a folder of pictures")
    parser.add_argument("--mask", type=Path, required=True, help="the first frame's")
    parser.add_argument("--model", default="small")
    parser.add_argument("--frame", type=int, default=20, help="the frame of the queries, counted from 0")
    parser.add_argument("--most", type=positive, default=400, help="cells of each label that are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("features"))
    args = parser.parse_args()
    return status(lambda: draw(args))


def draw(args: argparse.Namespace) -> None:
    frames = open_frames(args.input)
    mask = read_masks([args.mask], frames)[0]
    model: Model = load(args.model)
    one = jax.jit(lambda m, f, n: embed(m, f[None], n[None], PRESET.size)[0])
    stamped, embeddings = [], []
    with progress(f"embed {args.input.name}", frames.count) as advance:
        for frame in frames.stamped():
            stamped.append(frame)
            embeddings.append(np.asarray(one(model, frame.image, np.float32(frame.number)), np.float32))
            advance()
    if not 0 < args.frame < len(stamped):
        raise InputError(
            f"--frame {args.frame}: expected 1…{len(stamped) - 1}, a frame of {args.input} after the first"
        )
    args.out.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(args.seed)
    image = stamped[args.frame].image
    state = start(model, stamped[0].image, mask, number=stamped[0].number, preset=PRESET)
    r = state.references
    queried = label_embedding(model.config, r, embeddings[args.frame], image, preset=PRESET)
    ids, valid = np.asarray(r.ids), np.asarray(r.valid)
    labels = (
        ids[np.asarray(r.share)[valid].argmax(-1)],
        ids[np.asarray(queried.shares).reshape(-1, len(ids)).argmax(-1)],
    )
    rows = np.asarray(r.embedding)[valid], embeddings[args.frame].reshape(-1, model.config.dimensions)
    sets = [(e[c], x[c]) for e, x in zip(rows, labels, strict=True) for c in [some(rng, x, args.most)]]
    write_file(args.out / "plane.png", draw_plane(sets[0], sets[1], stamped[args.frame].name, args.seed))

    # Every n-th cell of the video is enough for its components.
    flat = np.concatenate([e.reshape(-1, e.shape[-1])[:: max(len(embeddings) // 4, 1)] for e in embeddings])
    components = Components(flat, 3)
    size = image.shape[:2]
    grow = both_axes(model.config, size, PRESET.size, lambda s, c, stride, n: grow_matrix(c, s, stride, n))
    with VideoWriter(args.out / "colours.mp4") as video:
        for frame, embedding in zip(stamped, embeddings, strict=True):
            colours = np.asarray(apply_axes(*grow, components.colours(embedding).astype(np.float32)))
            beside = np.concatenate([frame.image, colours.round().astype(np.uint8)], 1)
            video.write(beside, frame.seconds)
    print(f"{args.out / 'plane.png'}, {args.out / 'colours.mp4'}: three components are {components.shares.sum():.0%}")


if __name__ == "__main__":
    keep_memory()
    sys.exit(main())
