"""What is compiled before a user waits for it: for the first click at once, for what later inputs need when nobody asks."""

from __future__ import annotations

from collections.abc import Callable

from pmljax.inputs import Edit
from pmljax.interact import Session
from pmljax.views import margins

COARSE = 2  # how sure a frame is, is asked of every second row and column of cells


def warm(session: Session) -> None:
    """Compile what the first click needs, before a user waits for it."""
    h, w = session.size
    for label in (1, 0, 2):
        session.click(0, label * (h - 1) // 2, w // 2, label)
        session.labels(0)
    while session.undo():
        session.labels(0)
    session.undone.clear()


def warmer(session: Session) -> list[Callable[[], object]]:
    """Compile what later inputs will need, step by step, on a session that nobody looks at: longer and longer scribbles, for
    sizes are powers of two, and the way back."""
    h, w = session.size

    def said(edit: Edit) -> None:
        session.apply(edit)
        session.labels(0)

    def undone() -> None:
        session.undo()
        session.labels(0)

    scribbles = [
        Edit("scribble", 0, i % 3, ((h // 2, 0), (h // 2, w - 1)), max(min(h, w) * part // 100, 1))
        for i, part in enumerate((1, 2, 10, 30, 60))
    ]
    clicks = [Edit("click", 0, i % 3, ((h // 2, (2 * i + 1) * (w - 1) // 28),)) for i in range(14)]
    corners = [Edit("click", 0, i, ((i * (h - 1), i * (w - 1)),)) for i in range(2)]
    # An undo that follows an undo takes marks out: of few, of more than vote, of a scribble's.
    there_and_back = [*(lambda edit=edit: said(edit) for edit in corners), undone, undone]
    edits = [*scribbles, Edit("erase", 0, 0, ((h // 2, w // 2),), 9)]
    steps: list[Callable[[], object]] = [lambda: said(Edit("clear"))]
    for some in (clicks[:4], clicks[4:]):
        steps += [*(lambda edit=edit: said(edit) for edit in some), *there_and_back]
    for edit in edits:
        steps += [lambda edit=edit: said(edit), lambda: margins(session, 0, COARSE), lambda: margins(session, 0)]
        steps += there_and_back
    return [*steps, *[undone] * len(edits)]
