"""A video embedded once, and a user who clicks: the answer to an input is a search over embeddings that are already there.

A `Session` holds the inputs, in the order in which they were made, and for every cell of every frame its k nearest marked
cells. What a frame is labelled with depends on the marked cells alone, not on the order or the kind of the inputs: an input
costs work in proportion to the cells that it marks or unmarks, and the result equals a search from scratch to the last bit
(`embedded`). Frames are searched when they are asked for, CHUNK of them at once.
Axes: `h w` image, `y x` grid, `n` cell of a chunk's frames, `k` neighbour, `m` marked cell, `o` label column.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float, UInt8

from pmljax.answers import Answer, Marked, cell_labels, filled, power, updated, votes, weighing_of, weights_of
from pmljax.config import ShortSide
from pmljax.embedded import CHUNK, LENGTH, MEMORY, Video, embed_video
from pmljax.errors import InputError
from pmljax.files import default_cache, write_file
from pmljax.held import Held
from pmljax.inputs import PLACED, Edit, checked, pairs, read_edits, to_lines
from pmljax.labelling import grow
from pmljax.labels import grow_matrix, shrink_matrix
from pmljax.marks import Grid, Marks, after, cells_of_mask, holding, left_of, no_marks, region, with_edit
from pmljax.model import Model
from pmljax.presets import preset_of, session_vote
from pmljax.references import both_axes, id_columns

_grow = jax.jit(grow)  # one for all sessions, so that what is compiled for one is there for the next


class Session:
    """Interactive segmentation of one video.

    session = Session(pmljax.load("small"), pmljax.frames("clip.mp4"))
    session.click(0, 120, 300, label=1)
    session.scribble(0, [(20, 30), (25, 300)], label=0, width=9)
    labels = session.labels(40)                           # uint8 [h, w]

    k: neighbours that vote.  temperature: they weigh exp(−distance/temperature), the distance that between embeddings, squared
    (in units of the longest, where they have no unit length), and a click as much as k cells of a line (`weights_of`); None:
    all the same. Without a k both are `session_vote`'s.
    size: as in `Preset`, by default that of the network's.  cache: the folder in which embeddings are kept between
    sessions, by default `default_cache()`; None: not at all.  memory: bytes of embeddings that are held; longer videos are
    read from their file.  advance: called after each frame that is embedded.
    Inputs that do not fit the video raise InputError and change nothing.
    """

    def __init__(
        self,
        model: Model,
        video: Video,
        *,
        k: int | None = None,
        temperature: float | None = None,
        size: ShortSide | Literal["preset"] = "preset",
        cache: Path | str | None = "",
        memory: int = MEMORY,
        advance: Callable[[], object] = lambda: None,
    ):
        if not isinstance(model, Model):
            raise InputError(f"model: found {type(model).__name__}, expected what pmljax.load(NAME) gives")
        if k is None and temperature is not None:
            raise InputError(f"temperature {temperature}: found no k; expected both or neither")
        if k is None:
            k, temperature = session_vote(model.config)
        preset = preset_of(model.config)
        size = preset.size if size == "preset" else size
        replace(preset, k=k, temperature=temperature, size=size)  # or InputError
        if not hasattr(video, "stamped"):
            raise InputError(
                f"video: found {type(video).__name__}, expected pmljax.frames(PATH): a file or a folder of pictures"
            )
        folder = default_cache() if cache == "" else Path(cache) if cache else None
        self.embedded, self.reused = embed_video(model, video, size=size, cache=folder, memory=memory, advance=advance)
        config, self.size, self.k, self.temperature = model.config, video.size, k, temperature
        self._weighing = weighing_of(None if temperature is None else LENGTH**2 * temperature)
        half, seen = config.half_pixel, (config, self.size, size)
        shrink = both_axes(*seen, partial(shrink_matrix, half_pixel=half))
        self.growth = both_axes(*seen, lambda s, c, stride, n: grow_matrix(c, s, stride, n, half_pixel=half))
        self.grid = Grid(self.size, config.seen(self.size, size), self.embedded.grid, config.stride, shrink)
        self.edits: list[Edit] = []
        """The inputs that hold, in order."""
        self.undone: list[Edit] = []
        """Those taken back, the last first to come again."""
        self.names: dict[int, str] = {}
        """What the user calls the objects."""
        self._marks: dict[int, Marks] = {}
        self._held = Held()
        # What is marked: places (frame·c + cell) ascending, their labels, whether by clicks, their embeddings.
        self._marked, self._labels, self._clicked = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool)
        self._rows = np.zeros((0, self.embedded.dimensions), np.float16)

    # Inputs

    def click(self, frame: int, y: int, x: int, label: int) -> None:
        """Pixel (y, x) of a frame has `label`: 0 background, 1…254 objects."""
        self.apply(Edit("click", frame, label, ((y, x),)))

    def scribble(self, frame: int, points: Sequence[tuple[int, int]], label: int, width: int = 1) -> None:
        """The line through `points` (y, x), `width` pixels wide, has `label`."""
        self.apply(Edit("scribble", frame, label, pairs(points), width))

    def box(self, frame: int, top: int, left: int, bottom: int, right: int, label: int) -> None:
        """All pixels of a rectangle, its corners included, have `label`."""
        self.apply(Edit("box", frame, label, ((top, left), (bottom, right))))

    def mask(self, frame: int, labels: np.ndarray) -> None:
        """Every pixel has the label of `labels` `[h, w]`; where that is 255 nothing is said (so white on black, 0 and 255
        alone, is refused here)."""
        if set(np.unique(labels).tolist()) == {0, 255}:
            raise InputError(
                f"mask on frame {frame}: found 0 and 255 alone, which says nothing where it is 255; expected ids: (labels > 0)"
            )
        self.apply(Edit("mask", frame, labels=labels))

    def erase(self, frame: int, points: Sequence[tuple[int, int]], width: int = 1) -> None:
        """Whatever was said about the pixels within the line is taken back."""
        self.apply(Edit("erase", frame, 0, pairs(points), width))

    def clear(self) -> None:
        """All that was said is taken back, until `undo`."""
        self.apply(Edit("clear"))

    def forget(self, label: int) -> None:
        """All that was said about one object is taken back, until `undo`."""
        self.apply(Edit("forget", label=label))

    def remove(self, index: int) -> None:
        """Input `edits[index]` is taken back, wherever it stands, until `undo`."""
        self.apply(Edit("remove", target=index))

    def undo(self) -> bool:
        """Take the last input back; False if there is none."""
        if not self.edits:
            return False
        last = self.edits[-1]
        self._become(self.edits[:-1], [*self.undone, last], last, came=False)
        return True

    def redo(self) -> bool:
        """Make the input last taken back once more; False if there is none, or another was made since."""
        if not self.undone:
            return False
        last = self.undone[-1]
        self._become([*self.edits, last], self.undone[:-1], last, came=True)
        return True

    def check(self, edit: Edit, edits: Sequence[Edit] | None = None) -> Edit:
        """The edit as `apply` would take it after `edits` (by default the session's); InputError where it would not."""
        edit = checked(edit, self.embedded.count, self.size)
        if edit.labels is not None:
            cells_of_mask(edit.labels, self.grid)  # or InputError
        if edit.op == "remove" and edit.target not in holding(self.edits if edits is None else edits):
            raise InputError(f"remove: found input {edit.target}, expected one that holds and has a frame")
        return edit

    def apply(self, edit: Edit) -> None:
        """Any input; of op "undo", "redo" and "name" too."""
        if isinstance(edit, Edit) and edit.op in ("undo", "redo"):
            (self.undo if edit.op == "undo" else self.redo)()
            return
        edit = self.check(edit)
        if edit.op == "name":
            self.names[edit.label] = edit.name
            return
        self._become([*self.edits, edit], [], edit, came=True)

    def replay(self, said: Iterable[tuple[str, Edit]]) -> None:
        """`apply` of one edit after the other, in much less time, as marks are made once; none where one does not fit. said:
        (where it stands, edit); InputError begins with the former."""
        edits, undone, names = after(self.edits, self.undone, self.names, said, self.check)
        self._become(edits, undone, Edit("clear"), came=True)
        self.names = names

    def save(self, path: Path | str) -> None:
        """Write the inputs that hold as JSON lines (`pmljax.inputs`), after a line that says which video they belong to."""
        names = (Edit("name", label=label, name=name) for label, name in sorted(self.names.items()))
        lines = json.dumps(self._header()) + "\n" + to_lines(self.edits) + to_lines(names)
        write_file(Path(path), lines.encode())

    def load(self, path: Path | str) -> None:
        """Make the inputs of a file those of the session. InputError where it was saved from another video."""
        header, edits = read_edits(Path(path))
        named = {k: header[k] for k, v in self._header().items() if header and header.get(k, v) != v}
        if named:
            raise InputError(
                f"{path}: these inputs belong to another video ({json.dumps(named)}); expected the one that they were"
                " saved from"
            )
        loaded = self.snapshot()
        loaded.edits, loaded.undone, loaded.names = [], [], {}
        loaded.replay(edits)
        vars(self).update(vars(loaded))

    def _header(self) -> dict[str, object]:
        return {"video": self.embedded.digest, "frames": self.embedded.count, "size": list(self.size)}

    def _become(self, edits: list[Edit], undone: list[Edit], edit: Edit, *, came: bool) -> None:
        """The inputs are `edits` and `undone` now, as `edit` came or went. What may fail, as embeddings that cannot be read,
        does so before anything is another."""
        nothing_said, marks = no_marks(self.grid), self._marks.copy()
        if came and edit.op in PLACED:  # on top of what is there
            marks[edit.frame] = with_edit(marks.get(edit.frame, nothing_said), edit, self.grid)
        else:
            left = left_of(edits).values()
            frames = {e.frame for e in left} | set(marks)
            if edit.op in (*PLACED, "remove"):
                frames = {edits[edit.target].frame if edit.op == "remove" else edit.frame}
            for frame in frames:
                marks.pop(frame, None)
            for e in left:
                if e.frame in frames:
                    marks[e.frame] = with_edit(marks.get(e.frame, nothing_said), e, self.grid)
        cells, before = self.embedded.cells, self._marked
        found = [(f * cells + c, m.cells[c]) for f, m in sorted(marks.items()) for c in [np.flatnonzero(m.cells >= 0)]]
        marked = np.concatenate([np.zeros(0, np.int32), *(p for p, _ in found)]).astype(np.int32)
        labels = np.concatenate([np.zeros(0, np.int32), *(x for _, x in found)]).astype(np.int32)
        clicked = np.concatenate([np.zeros(0, bool), *(m.clicked[m.cells >= 0] for _, m in sorted(marks.items()))])
        rows = np.zeros((len(marked), self.embedded.dimensions), np.float16)
        known = np.isin(marked, before, assume_unique=True)
        rows[known] = self._rows[np.isin(before, marked, assume_unique=True)]
        rows[~known] = self.embedded.rows(marked[~known])
        self.edits, self.undone, self._marks = edits, undone, marks
        self._marked, self._labels, self._clicked, self._rows = marked, labels, clicked, rows

    def inputs(self) -> dict[int, Edit]:
        """{its index in `edits`: input} of the inputs that hold, without those that forgotten objects had."""
        return {i: self.edits[i] for i in left_of(self.edits)}

    def objects(self) -> list[int]:
        """The objects that have a marked cell or a name, but for those forgotten."""
        forgotten = {e.label for e in self.edits if e.op == "forget"}
        return sorted((set(self.names) - forgotten | {int(i) for i in np.unique(self._labels)}) - {0})

    def marked_cells(self) -> dict[int, int]:
        """{frame: how many of its cells are marked}."""
        frames, counts = np.unique(self._marked // self.embedded.cells, return_counts=True)
        return dict(zip(frames.tolist(), counts.tolist(), strict=True))

    def snapshot(self) -> Session:
        """A session on the same embeddings with the same inputs, which goes its own way from here."""
        other = copy.copy(self)
        # What they hold is never written to.
        for name in ("edits", "undone", "names", "_marks"):
            setattr(other, name, copy.copy(getattr(self, name)))
        other._held = self._held.copy()
        return other

    # Answers

    def labels(self, frame: int) -> UInt8[np.ndarray, "h w"]:
        """Every pixel's label, 0 while nothing is marked; pixels that the user marked have the label that was given."""
        shares, ids = self.votes(frame)
        out = np.asarray(_grow(shares, ids, *self.growth))
        if frame in self._marks:
            said = self._marks[frame].pixels
            out = np.where(said >= 0, said, out)
        return out.astype(np.uint8)  # a copy, to write in

    def all_labels(self) -> Iterator[UInt8[np.ndarray, "h w"]]:
        """`labels` of every frame, one after the other."""
        return (self.labels(frame) for frame in range(self.embedded.count))

    def votes(self, frame: int) -> tuple[Float[np.ndarray, "y x o"], UInt8[np.ndarray, "o"]]:
        """(the share of each label in the vote of every cell's neighbours, the labels); 255 for columns not in use."""
        chunk, f = divmod(self._checked(frame), CHUNK)
        (marked, ids), answer = self._padded(), self._answer(chunk)
        found = (answer.distances, answer.places, np.int32(f), self._weighing, marked)
        shares = votes(*found, cells=self.embedded.cells, labels=len(ids))
        return np.asarray(shares).reshape(*self.embedded.grid, -1), ids

    def grid_labels(self) -> UInt8[np.ndarray, "t y x"]:
        """The label of every cell of every frame: the whole video's answer before it grows."""
        marked, ids = self._padded()
        answers = (self._answer(i) for i in range(self.embedded.chunks))
        found = [np.asarray(cell_labels(a.distances, a.places, self._weighing, marked, ids)) for a in answers]
        cells = np.concatenate(found)[: self.embedded.count * self.embedded.cells]
        return cells.reshape(self.embedded.count, *self.embedded.grid)

    def said(self, frame: int) -> Marks:
        """What the user said about a frame."""
        return self._marks.get(self._checked(frame)) or no_marks(self.grid)

    def shows(self, edit: Edit) -> bool:
        """Whether any pixel of a click, a scribble or a box has its label, by it or by another input."""
        return bool((self.said(edit.frame).pixels[region(edit, self.size)] == edit.label).any())

    def marked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every marked cell: its place (frame·c + cell, ascending), its label, its embedding."""
        return self._marked, self._labels, self._rows

    def neighbours(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The k nearest marked cells of every cell of a frame: (squared distances, places, weights), `[c, k]`, as in `Answer`
        and `weights_of`."""
        chunk, f = divmod(self._checked(frame), CHUNK)
        here = slice(f * self.embedded.cells, (f + 1) * self.embedded.cells)
        answer = self._answer(chunk)
        distances, places = (np.asarray(x)[here] for x in (answer.distances, answer.places))
        weights, _ = weights_of(distances, places, self._weighing, self._padded()[0])
        return distances, places, np.asarray(weights)

    def _checked(self, frame: int) -> int:
        if isinstance(frame, bool) or not isinstance(frame, int | np.integer) or not 0 <= frame < self.embedded.count:
            raise InputError(f"frame {frame}: expected 0…{self.embedded.count - 1}")
        return int(frame)

    def _padded(self) -> tuple[Marked, UInt8[np.ndarray, "o"]]:
        """(what is marked, the columns' ids), filled up so that few sizes are compiled."""
        ids = np.asarray(id_columns([0, *sorted({int(i) for i in self._labels} - {0})]))
        size, columns = power(len(self._marked), 128), np.searchsorted(ids, self._labels)
        return Marked(filled(self._marked, size), filled(columns, size, 0), filled(self._clicked, size, 0) > 0), ids

    def _answer(self, i: int) -> Answer:
        """The chunk's neighbours among what is marked now."""

        def update(before: Answer | None) -> Answer:
            cells = CHUNK * self.embedded.cells
            return updated(before, cells, lambda: self.embedded.chunk(i), self._marked, self._rows, self.k)

        return self._held.of(i, self._marked, update)
