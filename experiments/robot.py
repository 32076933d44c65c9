"""A simulated user who knows the truth: where the next click falls, and which scribbles are drawn over the errors.

A click falls on the point of the largest error that is farthest from the error's edge. Scribbles are as the DAVIS
interactive robot draws them (the package davisinteractive): of each label's error the opened region, its skeleton, the
longest path through each part of it, and a Bézier curve with the path for its control points. Outside of the picture
counts as outside of a region everywhere. NumPy and SciPy.
Labels are as everywhere: 0 background, 255 void, which is never an error.
Axes: `h w` frame, `n` point of a line; points are (y, x).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from scipy.sparse import coo_matrix, csgraph
from scipy.special import gammaln, xlog1py, xlogy

from pmljax.inputs import Edit
from pmljax.labels import VOID

TOUCHING = np.ones((3, 3), bool)  # pixels that share an edge or a corner belong together
SHORTEST = 4  # pixels of a skeleton's part that is drawn
ROUND = 2.0  # depth of an error, in pixels, from which it gets a dot at least


# Clicks


def depth(region: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The distance of every pixel to the nearest one outside of the region, 0 outside."""
    return ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]  # pyright: ignore


def interior_point(region: Bool[np.ndarray, "h w"], rng: np.random.Generator, share: float = 1.0) -> tuple[int, int]:
    """A pixel drawn evenly among those whose depth is at least `share` of the greatest there is."""
    inside = depth(region)
    y, x = rng.choice(np.argwhere(inside >= share * inside.max()))
    return int(y), int(x)


def largest_error(truth: UInt8[np.ndarray, "h w"], labels: UInt8[np.ndarray, "h w"]) -> np.ndarray | None:
    """The largest connected region, bool `[h, w]`, of one true label where `labels` says something else; None: all is right."""
    wrong = (truth != labels) & (truth != VOID)
    best, most = None, 0
    for label in np.unique(truth[wrong]):
        parts: np.ndarray = ndimage.label(wrong & (truth == label), TOUCHING)[0]  # pyright: ignore
        sizes = np.bincount(parts.ravel())[1:]
        if sizes.max() > most:
            best, most = parts == 1 + sizes.argmax(), sizes.max()
    return best


def next_click(
    frame: int,
    truth: UInt8[np.ndarray, "h w"],
    labels: UInt8[np.ndarray, "h w"],
    rng: np.random.Generator,
    share: float = 1.0,
    *,
    lines: bool = False,
) -> list[Edit]:
    """The click, with the truth's label, on the most interior point of the largest error; nothing where all is right.

    lines: half of the time, by `rng`, the longest line that fits into the error instead: what a user of the page mixes.
    """
    region = largest_error(truth, labels)
    if region is None:
        return []
    label = int(truth[region][0])
    if lines and rng.random() < 0.5:
        found = [smooth(path, region) for path in longest_paths(thin(opened(region)))] or dot(region)
        if found:
            return [Edit("scribble", frame, label, max(found, key=len))]
    return [Edit("click", frame, label, (interior_point(region, rng, share),))]


# Scribbles


def scribbles(frame: int, truth: UInt8[np.ndarray, "h w"], labels: UInt8[np.ndarray, "h w"]) -> list[Edit]:
    """Lines over the errors of one frame, background's first; none over errors too small to draw in.

    Discs and squares have a point for a skeleton. The DAVIS robot would say nothing about them; here they get a dot.
    """
    edits = []
    for label in np.unique(truth[truth != VOID]):
        error = (truth == label) & (labels != label)
        if error.any():
            lines = [smooth(path, error) for path in longest_paths(thin(opened(error)))] or dot(error)
            edits += [Edit("scribble", frame, int(label), line) for line in lines]
    return edits


def dot(region: Bool[np.ndarray, "h w"]) -> list[tuple[tuple[int, int], ...]]:
    """A line of one point where the region is deepest; none in shallow ones."""
    inside = depth(region)
    y, x = np.unravel_index(inside.argmax(), region.shape)
    return [((int(y), int(x)),)] if inside[y, x] > ROUND else []


def opened(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The region without what a disk of the robot's radius does not fit into; a smaller disk where none of it would be left."""
    inside = depth(region)
    radius = min(0.15 * np.sqrt(region.sum()) * 0.5, 16.0)
    while radius > 1:
        # Eroded by a disk: deeper than its radius. Dilated: within its radius of what is left.
        core = inside > radius
        if core.any():
            return ndimage.distance_transform_edt(~core) <= radius  # pyright: ignore
        radius *= 0.9
    return region


# The eight neighbours, clockwise from the upper one: bit i of a pixel's code says whether neighbour i is in the region.
NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def _kept() -> UInt8[np.ndarray, "2 256"]:
    """Of Guo and Hall's two passes (CACM 1989, their algorithm A1), by a pixel's code: 1 where it stays.

    Zhang and Suen's would take squares of four pixels away altogether and leave some diagonals two pixels wide.
    """
    n, ne, e, se, s, sw, w, nw = (((np.arange(256) >> i) & 1).astype(bool) for i in range(8))
    crossings = np.sum([~n & (ne | e), ~e & (se | s), ~s & (sw | w), ~w & (nw | n)], 0)
    pairs = [(nw | n), (ne | e), (se | s), (sw | w)], [(n | ne), (e | se), (s | sw), (w | nw)]
    filled = np.sum(pairs, 1).min(0)
    border = (crossings == 1) & (filled >= 2) & (filled <= 3)
    gone = border & ~((s | sw | ~nw) & w), border & ~((n | ne | ~se) & e)
    return (~np.stack(gone)).astype(np.uint8)


KEPT = _kept()


def thin(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The skeleton: lines one pixel wide that hang together (by edges or corners) as the region does."""
    x = np.pad(region, 1).astype(np.uint8)
    h, w = region.shape
    inner, left = x[1:-1, 1:-1], -1
    while left != (left := int(np.count_nonzero(inner))):
        for kept in KEPT:
            code = np.zeros((h, w), np.uint8)
            for i, (dy, dx) in enumerate(NEIGHBOURS):
                code |= x[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] << i
            inner &= kept[code]
    return inner.astype(bool)


def longest_paths(skeleton: Bool[np.ndarray, "h w"]) -> list[Int[np.ndarray, "n 2"]]:
    """Of each part of a skeleton with SHORTEST pixels or more, the longest path once its cycles are cut."""
    nodes = np.argwhere(skeleton)
    number = np.full(np.array(skeleton.shape) + 2, -1)
    number[tuple(nodes.T + 1)] = np.arange(len(nodes))
    edges = []
    for dy, dx in NEIGHBOURS[2:6]:  # each pair of neighbours once
        other = number[tuple(nodes.T + np.array([[1 + dy], [1 + dx]]))]
        a = np.flatnonzero(other >= 0)
        edges.append((a, other[a], np.full(len(a), np.hypot(dy, dx))))
    a, b, length = (np.concatenate(x) for x in zip(*edges, strict=True))
    # Cut at its longest edge, every cycle is open: what is left is the minimum spanning tree.
    tree = csgraph.minimum_spanning_tree(coo_matrix((length, (a, b)), (len(nodes), len(nodes))).tocsr())
    count, part = csgraph.connected_components(tree, directed=False)
    paths = []
    for i in range(count):
        mine = np.flatnonzero(part == i)
        if len(mine) < SHORTEST:
            continue
        # What is farthest from anywhere in a tree is an end of its longest path; what is farthest from that, the other.
        one, _ = _farthest(tree, int(mine[0]))
        at, before = _farthest(tree, one)
        path = [at]
        while path[-1] != one:
            path.append(int(before[path[-1]]))
        paths.append(nodes[path])
    return paths


def _farthest(tree: object, start: int) -> tuple[int, Int[np.ndarray, "n"]]:
    """(the node farthest from `start`, the node before each on the way from there)."""
    distances, before = csgraph.dijkstra(tree, directed=False, indices=start, return_predecessors=True)[:2]
    return int(np.where(np.isfinite(distances), distances, -1).argmax()), before


def bezier(points: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """The Bézier curve with these control points, sampled so that neighbouring samples of a path of pixels lie less than
    a pixel apart: it is never faster than n − 1 steps of √2 in its unit of time."""
    n = len(points)
    i, t = np.arange(n), np.linspace(0, 1, 2 * n)[:, None]
    log = gammaln(n) - gammaln(i + 1) - gammaln(n - i) + xlogy(i, t) + xlog1py(n - 1 - i, -t)
    return np.exp(log) @ points


def smooth(path: Int[np.ndarray, "n 2"], region: Bool[np.ndarray, "h w"]) -> tuple[tuple[int, int], ...]:
    """The pixels of the path's Bézier curve, in order; those of the path where the curve would leave the region, as around
    a corner: no user draws over what has another label, although the DAVIS robot does."""
    curve = np.floor(bezier(path) + 0.5).astype(int)
    line = curve if region[tuple(curve.T)].all() else path
    moved = np.r_[True, (np.diff(line, axis=0) != 0).any(1)]
    return tuple((int(y), int(x)) for y, x in line[moved])
