"""Streams of frames: the references as frames come and go, one compiled call (`labelling`) for each frame; on a CPU two, the
embedding and the labels, side by side (`ahead`).

`segment` is a generator over frames; `start` and `step` are the same for a live stream, the state in the caller's hands.
Axes: `h w` image, `y x` grid, `d` embedding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pmljax.adaptation import ROWS, withdraw
from pmljax.ahead import embed_ahead, embed_frame
from pmljax.augmented import VIEWS, kept, seen_as
from pmljax.errors import InputError
from pmljax.labelling import label_embedding, segment_frame
from pmljax.labels import check_labels, object_ids
from pmljax.late import taken_back
from pmljax.memory import cells_kept
from pmljax.model import Model, at_stride
from pmljax.presets import Preset, preset_of
from pmljax.references import References, id_columns, keep_thin_objects, put, reference_rows, with_ids


class State(NamedTuple):
    """A stream under way: the references, how many of their rows the user's masks fill, and the next frame's index."""

    references: References
    filled: int
    index: int
    size: tuple[int, int]
    preset: Preset


_put = jax.jit(put)


# A stream


def start(
    model: Model,
    frame: np.ndarray,
    labels: np.ndarray,
    *,
    number: int | None = None,
    index: int = 0,
    masks: int = 1,
    preset: Preset | None = None,
) -> State:
    """Begin a stream with its first marked frame: the state for `step`.

    frame: uint8 RGB `[h, w, 3]`.  labels: integers `[h, w]`, ids as `pmljax.labels` gives them; at least one object.
    index: of this frame in the stream.  number: the frame's own (its index by default).
    masks: how many masks the stream will be given in all, later ones through `step`: room is made for that many, once.
    Raises InputError for labels that do not fit the frame.
    """
    frame = np.array(frame)  # as in `step`
    _check_frame(frame, index, None)
    labels = check_labels(labels, f"labels of frame {index}", size=frame.shape[:2], objects=True)
    preset = _preset_for(model, preset)
    model = at_stride(model, preset.stride)
    y, x = model.config.grid(model.config.seen(frame.shape[:2], preset.size))
    user = -(-y * x * masks // ROWS) * ROWS
    capacity = user + preset.adaptation.rows(y * x)
    ids = id_columns([0, *object_ids(labels)])
    nothing = (  # NumPy's, and `device_put`, as nothing has to be compiled for them
        np.zeros((capacity, model.config.dimensions), model.config.precision),
        np.zeros((capacity, len(ids)), model.config.precision),
        np.zeros(capacity, bool),
        np.full((capacity, 3), -1, np.int32),
    )
    embedding, share, valid, place = jax.device_put(nothing)
    references = References(embedding, share, valid, place, ids)
    state = State(references, 0, index, frame.shape[:2], preset)
    number = index if number is None else number
    state = _add(model, state, frame, labels, number, late=False)
    return _augment(model, state, frame, labels, number)._replace(index=index + 1)


def step(
    model: Model,
    state: State,
    frame: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    number: int | None = None,
    embedding: Float[Array, "y x d"] | None = None,
) -> tuple[State, UInt8[Array, "h w"]]:
    """Label the next frame of a stream: (state, uint8 `[h, w]`). Returns at once; reading the labels waits for them.

    labels: marks on this frame, for objects that appear late or were lost. Their ids win on this frame and join the
    references; where they are 0 nothing is said, and the frame's own labels stay. 255 is void: no reference, and it
    comes out as it is, as of the first mask. Where they say object and an earlier mask said 0, the later word holds (`late`).
    number: the frame's own (its index in the stream by default).  embedding: the frame's, where it is there already
    (`pmljax.ahead.embed_frame`); otherwise it is part of the one compiled call.
    Raises InputError for a frame or labels of another size, and for a mask for which the references have no room: they have
    for as many as `start` was told of.
    """
    frame = np.array(frame)  # the caller may fill its own with the next one before this one was looked at
    _check_frame(frame, state.index, state.size)
    number, preset = state.index if number is None else number, state.preset
    if embedding is None:
        result = segment_frame(model, state.references, frame, np.float32(number), np.int32(state.index), preset=preset)
    else:
        config = at_stride(model, preset.stride).config
        result = label_embedding(config, state.references, embedding, frame, np.int32(state.index), preset=preset)
    state, out = state._replace(references=result.references), result.labels
    if labels is not None:
        labels = check_labels(labels, f"labels of frame {state.index}", state.size, objects=True)
        # What the frame made of itself may be what the user corrects.
        cells = int(np.prod(_grid(model, state)))
        given = withdraw(state.references, state.index, cells, state.preset.adaptation)
        state = _add(model, state._replace(references=given), frame, labels, number, embedding, late=True)
        out = jnp.where(labels > 0, labels, out)
    return state._replace(index=state.index + 1), out


@overload
def segment(
    model: Model,
    frames: Iterable[np.ndarray | tuple[int, np.ndarray]],
    labels: np.ndarray | Mapping[int, np.ndarray],
    *,
    preset: Preset | None = None,
) -> Iterator[UInt8[np.ndarray, "h w"]]: ...


@overload
def segment(
    model: Model,
    frames: Iterable[np.ndarray | tuple[int, np.ndarray]],
    labels: np.ndarray | Mapping[int, np.ndarray],
    *,
    preset: Preset | None = None,
    skip: Collection[int],
) -> Iterator[UInt8[np.ndarray, "h w"] | None]: ...


def segment(
    model: Model,
    frames: Iterable[np.ndarray | tuple[int, np.ndarray]],
    labels: np.ndarray | Mapping[int, np.ndarray],
    *,
    preset: Preset | None = None,
    skip: Collection[int] = (),
) -> Iterator[UInt8[np.ndarray, "h w"] | None]:
    """Label every frame of a stream: uint8 `[h, w]` each, in order, one frame behind the device (on a CPU two behind the
    frames read: `ahead`).

    frames: uint8 RGB `[h, w, 3]`, or pairs (the frame's own number, frame), or what has both (`Frames.stamped`); the numbers
    are 0, 1, 2, … otherwise.
    labels: `[h, w]`, the first frame's; or {index: labels} where objects appear late; frames before the first mask
    come out as background. The first mask comes back as given, its void included.
    skip: indices whose labels are not needed: None comes out, but for the first mask's frame and those before it.
    Raises what `frames` raises, and InputError for a frame or a mask that does not fit, after the labels of every frame before.
    """
    if isinstance(frames, str | Path):
        raise InputError(f"frames: found {str(frames)!r}, expected a stream, such as pmljax.frames(PATH)")
    preset = _preset_for(model, preset)
    marks = dict(labels) if isinstance(labels, Mapping) else {0: labels}
    if not marks:
        raise InputError("labels: found no mask; expected at least one, {index of its frame: labels}")
    if not all(isinstance(index, int | np.integer) for index in marks):
        raise InputError(f"labels: found masks for frames {list(marks)!r:.60}, expected whole numbers, counted from 0")
    if min(marks) < 0:
        raise InputError(f"labels: found a mask for frame {min(marks)}, expected frames counted from 0")
    first, state, waiting = min(marks), None, None
    numbered = (_numbered(i, frame) for i, frame in enumerate(frames))

    def stepped(index: int) -> bool:
        return index > first and (index not in skip or index in marks or preset.adaptation.frames > 0)

    index, failure, size = 0, None, None
    with closing(embed_ahead(model, numbered, preset, stepped)) as stream:
        while True:
            try:
                number, frame, embedding = next(stream)
                if index < first:
                    _check_frame(frame, index, size)
                    size = frame.shape[:2]
                    out = np.zeros(size, np.uint8)
                elif state is None:
                    state = start(
                        model, frame, marks[index], number=number, index=index, masks=len(marks), preset=preset
                    )
                    out = check_labels(marks[index])
                elif not stepped(index):
                    state, out = state._replace(index=index + 1), None
                else:
                    _check_frame(frame, index, state.size)  # before what its embedding would say
                    there = embedding and embedding.result()
                    state, out = step(model, state, frame, marks.get(index), number=number, embedding=there)
                    out = None if index in skip else out  # what adapts was computed for the frames after it
            except StopIteration:
                break
            except Exception as error:  # the caller gets what was finished before
                failure = error
                break
            # The device works on this frame while the caller handles the one before and a further one is decoded.
            if index:
                yield None if waiting is None else np.array(waiting)  # a copy, to write in
            waiting = out
            index += 1
    if index:
        yield None if waiting is None else np.array(waiting)
    if failure is not None:
        raise failure
    if not index:
        raise InputError("frames: found none; expected one at least")
    if max(marks) >= index:
        raise InputError(f"labels: found a mask for frame {max(marks)}, expected 0…{index - 1}: the frames there are")


def _numbered(index: int, frame: Any) -> tuple[int, np.ndarray]:
    """(the frame's own number, frame) of what a stream of `segment` gives."""
    if hasattr(frame, "image") and hasattr(frame, "number"):
        return frame.number, frame.image
    if not isinstance(frame, tuple):
        return index, frame
    if len(frame) != 2:
        raise InputError(f"frame {index}: found {len(frame)} values, expected a frame, or its number and the frame")
    return frame


def _preset_for(model: Model, preset: Preset | None) -> Preset:
    """The preset that is asked for, or the network's; InputError where something else was given."""
    if not isinstance(model, Model):
        raise InputError(f"model: found {type(model).__name__}, expected what pmljax.load(NAME) gives")
    if not isinstance(preset, Preset | None):
        raise InputError(f'preset: found {preset!r:.40}, expected a Preset, such as pmljax.PRESETS["best"]')
    return preset or preset_of(model.config)


def _check_frame(frame: np.ndarray, index: int, size: tuple[int, int] | None) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InputError(f"frame {index}: found {frame.dtype} {list(frame.shape)}, expected uint8 RGB [h, w, 3]")
    if size is not None and frame.shape[:2] != size:
        raise InputError(
            f"frame {index}: found {frame.shape[1]}×{frame.shape[0]}, expected the first frame's {size[1]}×{size[0]}"
            " (width×height)"
        )


def _grid(model: Model, state: State) -> tuple[int, int]:
    config = at_stride(model, state.preset.stride).config
    return config.grid(config.seen(state.size, state.preset.size))


def _rows(model: Model, state: State, embedding: jax.Array, labels: np.ndarray, *, late: bool) -> References:
    """The cells of a marked frame as the stream's references."""
    return reference_rows(
        at_stride(model, state.preset.stride).config,
        embedding,
        labels,
        state.references.ids,
        state.index,
        late=jax.device_put(np.array(late)),
        short_side=state.preset.size,
        hard=state.preset.hard,
    )


def _add(
    model: Model,
    state: State,
    frame: np.ndarray,
    labels: np.ndarray,
    number: int,
    embedding: Float[Array, "y x d"] | None = None,
    *,
    late: bool,
) -> State:
    """The state with one more marked frame among its references."""
    references, preset = with_ids(state.references, object_ids(labels)), state.preset
    config = at_stride(model, preset.stride).config
    if embedding is None:
        # float32: long numbers, as in file names with a time, must not overflow
        embedding = embed_frame(model, frame, np.float32(number), preset=preset)
    rows = _rows(model, state._replace(references=references), embedding, labels, late=late)
    begin, end = state.filled, state.filled + rows.valid.shape[0]
    room = references.valid.shape[0] - state.preset.adaptation.rows(rows.valid.shape[0])
    if end > room:
        raise InputError(
            f"labels of frame {state.index}: no room for another mask among {room} references;"
            " start the stream with masks= the number of masks it will be given"
        )
    rows = keep_thin_objects(rows, labels, config, preset.size, f"labels of frame {state.index}")
    if late and config.unit:
        references = taken_back(references, embedding, rows.valid)
    written = {name: getattr(rows, name) for name in References._fields[:4]}
    return state._replace(references=_put(references, written, np.int32(begin)), filled=end)


def _augment(model: Model, state: State, frame: np.ndarray, labels: np.ndarray, number: int) -> State:
    """The state with the views of its first marked frame among what is remembered."""
    preset, references = state.preset, state.references
    if not model.config.mirrors:
        return state
    cells = int(np.prod(_grid(model, state)))
    begin = len(references.valid) - preset.adaptation.rows(cells) + preset.adaptation.memory * cells_kept(cells)
    for view in VIEWS[: preset.adaptation.augmented]:
        seen, marked = seen_as(view, frame, labels)
        embedding = embed_frame(model, seen, np.float32(number), preset=preset)
        rows = _rows(model, state, embedding, marked, late=False)
        references = _put(references, kept(embedding, rows.share, rows.valid), np.int32(begin))
        begin += cells_kept(cells)
    return state._replace(references=references)
