"""Time of the bilateral solver at 1, 3 and 10 objects, beside SciPy's products and OpenCV's solver.

    python -m experiments.solver_speed --frame DAVIS/JPEGImages/480p/bmx-bumps/00000.jpg \\
        --mask DAVIS/Annotations/480p/bmx-bumps/00000.png
    python -m experiments.solver_speed

A minute on two cores. The mask, taken through stride 8 and moved a little for each object, is the target. Without a
frame, a made one of 480×854: smooth colours under noise, with somewhat more vertices than most real ones. The last rows are the
same 25 steps in SciPy, its matrices already made, and OpenCV's `fastBilateralSolverFilter` from the image, where
a build of opencv-contrib with Eigen is installed (Debian's python3-opencv has it, the wheels of PyPI do not); both take the
objects one after the other. OpenCV rounds Y, U and V to whole numbers before it divides them; that is all that differs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from pmljax import bilateral
from pmljax.bilateral import solve
from pmljax.bilateral_grid import DEFAULT, BilateralConfig, Smoothness, find_vertices, smoothness_of, splat
from pmljax.confidence import near_border
from pmljax.terminal import status

OBJECTS = (1, 3, 10)


@dataclass(frozen=True)
class Config:
    frame: Path | None = None
    """A picture; a made one by default."""
    mask: Path | None = None
    """Its mask; a disc by default."""
    rounds: int = 7
    """Calls measured."""


def made(h: int = 480, w: int = 854) -> tuple[np.ndarray, np.ndarray]:
    """A frame and its object."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:h, :w]
    inside = (y - h / 2) ** 2 + (x - w / 2) ** 2 < (h / 4) ** 2
    smooth = np.stack([90 + 60 * np.sin(x / 70 + k) * np.cos(y / 50 - k) for k in range(3)], -1)
    frame = (
        np.where(inside[..., None], 255 - smooth, smooth) + rng.normal(0, 6, (h, w, 1)) + rng.normal(0, 2, (h, w, 3))
    )
    return frame.clip(0, 255).astype(np.uint8), inside


def timed(name: str, call: Callable[[], object], rounds: int) -> object:
    """The call's result; prints its first call, then the median and the 90th percentile of the others."""
    begin = time.perf_counter()
    result = jax.block_until_ready(call())
    first = time.perf_counter() - begin
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    median, high = np.quantile(seconds, (0.5, 0.9))
    print(f"{name:34} {median * 1e3:7.1f} ms  (90 %: {high * 1e3:.1f}; first call {first:.2f} s)", flush=True)
    return result


def scipy_steps(smoothness: Smoothness, weight: np.ndarray, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The function b → y after 25 steps, with SciPy's sparse products in float64."""
    from scipy import sparse

    neighbours = np.asarray(smoothness.neighbours)[:, :count]
    axis, row = np.nonzero(neighbours < count)
    n = sparse.diags(np.float64(smoothness.n[:count]))
    edges = sparse.csr_matrix((np.ones(len(row)), (row, neighbours[axis, row])), (count, count))
    diagonal = np.float64(smoothness.diagonal[:count]) + weight
    a = (sparse.diags(diagonal) - DEFAULT.smoothness * (n @ edges @ n)).tocsr()
    inverse = 1 / np.maximum(diagonal, DEFAULT.diagonal_floor)

    def run(b: np.ndarray) -> np.ndarray:
        y = b / weight
        r = b - a @ y
        p = z = inverse * r
        for _ in range(DEFAULT.steps):
            q, before = a @ p, r @ z
            along = before / (p @ q)
            y, r = y + along * p, r - along * q
            z = inverse * r
            p = z + r @ z / before * p
        return y

    return run


def main(config: Config) -> None:
    frame, mask = made()
    if config.frame is not None:
        from PIL import Image

        frame = np.asarray(Image.open(config.frame).convert("RGB"))
    if config.mask is not None:
        from pmljax.labels import read_labels

        mask = read_labels(config.mask) > 0
    if mask.shape != frame.shape[:2]:
        raise SystemExit(f"mask: found {mask.shape}, expected the frame's {frame.shape[:2]} (height, width)")
    coarse = np.kron(mask[::8, ::8], np.ones((8, 8)))[: mask.shape[0], : mask.shape[1]]
    targets = np.stack([np.roll(coarse, (3 * i, 5 * i), (0, 1)) for i in range(max(OBJECTS))], -1).astype(np.float32)
    image, confidence = jnp.asarray(frame), jnp.ones(mask.shape)
    vertices = timed("vertices", lambda: find_vertices(image), config.rounds)
    count = int(vertices.count)
    rows = next(r for r in bilateral._sizes(mask.size) if r > count)
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, {mask.shape[0]}×{mask.shape[1]}: {count:,} vertices")
    print(f"compiled for {bilateral._sizes(mask.size)} rows; {rows} used")
    pixels = splat(vertices.of_pixel, jnp.ones((*mask.shape, 1)), rows)[:, 0]
    grid = jax.jit(lambda v: smoothness_of(v, pixels, DEFAULT))
    smoothness = timed("neighbours, bistochastisation", lambda: grid(vertices), config.rounds)
    border = jax.jit(lambda x: near_border(x, BilateralConfig(border=8)))
    labels = jnp.asarray(mask.astype(np.int32))
    timed("confidence at borders", lambda: border(labels), config.rounds)
    results = {}
    for o in OBJECTS:
        target = jnp.asarray(targets[..., :o])
        results[o] = timed(f"whole solve, {o} objects", lambda t=target: solve(image, t, confidence), config.rounds)

    data = np.asarray(
        splat(vertices.of_pixel, jnp.asarray(np.dstack([targets, np.ones(mask.shape, np.float32)])), rows)
    )
    data = np.float64(data[:count])
    try:
        run = scipy_steps(smoothness, data[:, -1], count)
    except ImportError:
        print("SciPy is not installed")
    else:
        for o in OBJECTS:
            ys = timed(f"SciPy, steps alone, {o} objects", lambda o=o: [run(b) for b in data[:, :o].T], config.rounds)
            away = np.abs(np.stack(ys, -1)[np.asarray(vertices.of_pixel)] - results[o]).max()
        print(f"largest difference from SciPy's float64: {away:.1e}")
    try:
        import cv2

        opencv = cv2.ximgproc.fastBilateralSolverFilter
        ones, bgr = np.ones(mask.shape, np.float32), np.ascontiguousarray(frame[..., ::-1])
        opencv(bgr, ones, ones)
    except (ImportError, AttributeError) as error:
        print(f"OpenCV's ximgproc is not here: {error}")
        return
    except cv2.error as error:  # the wheels of PyPI seen so far (4.5, 4.10, 5.0) were built without Eigen
        print(f"OpenCV cannot: {str(error).strip()}")
        return
    args = (DEFAULT.sigma_space, DEFAULT.sigma_luma, DEFAULT.sigma_chroma, DEFAULT.smoothness, DEFAULT.steps)
    for o in OBJECTS:
        planes = [np.ascontiguousarray(targets[..., i]) for i in range(o)]
        ys = timed(
            f"OpenCV, {o} objects", lambda p=planes: [opencv(bgr, t, ones, None, *args) for t in p], config.rounds
        )
    away = np.abs(np.stack(ys, -1) - results[max(OBJECTS)])
    print(f"difference from OpenCV's: {away.mean():.1e} on average, {away.max():.2f} at most")


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(status(lambda: main(config)))
