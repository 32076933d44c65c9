"""Who decided, how sure, and the colours of the embedding, against plain loops."""

import numpy as np
import pytest
from test_interact import COLOR, NET, VIDEO

from pmljax.embedded import LENGTH
from pmljax.inputs import Edit
from pmljax.interact import Session
from pmljax.views import colours, margins, principal, why


@pytest.fixture(
    scope="module",
    params=[(COLOR, 1, None), (NET, 3, None), (NET, 10, 0.15)],
    ids=["color", "net k 3", "net weighed"],
)
def session(request):
    model, k, temperature = request.param
    session = Session(model, VIDEO, k=k, temperature=temperature, cache=None)
    session.click(0, 10, 10, 1)
    session.scribble(0, [(30, 5), (30, 50)], 0, width=3)
    session.click(4, 20, 40, 7)
    return session


def everything(session):
    """(every cell's stored numbers, the marked places, their labels)."""
    rows = np.concatenate([np.asarray(session.embedded.chunk(i)) for i in range(session.embedded.chunks)]).astype(float)
    places, labels, _ = session.marked()
    return rows, places, labels


def test_why_against_a_search_by_hand(session):
    rows, places, labels = everything(session)
    cells, where = session.embedded.cells, (session.grid.seen, session.grid.size)
    for frame, y, x in [(0, 10, 10), (3, 7, 20), (9, 40, 54), (5, 0, 0)]:
        found = why(session, frame, y, x)
        shares, voters, weights = {}, {}, session.neighbours(frame)[2]
        # Linear between the four cells around the pixel.
        for i in range(session.grid.cells[0]):
            for j in range(session.grid.cells[1]):
                at = [((p + 0.5) * n / size - 0.5) / 8 for p, n, size in zip((y, x), *where, strict=True)]
                clamped = [min(max(a, 0), n - 1) for a, n in zip(at, session.grid.cells, strict=True)]
                weight = max(1 - abs(clamped[0] - i), 0) * max(1 - abs(clamped[1] - j), 0)
                if weight < 1e-6:
                    continue
                query = rows[frame * cells + i * session.grid.cells[1] + j]
                distances = ((rows[places] - query) ** 2).sum(-1)
                nearest = np.argsort(distances, kind="stable")[: session.k]
                votes = weights[i * session.grid.cells[1] + j]
                assert (votes.min() == votes.max()) == (session.temperature is None)
                for n, part in zip(nearest, votes[votes > 0] / votes.sum(), strict=True):
                    shares[labels[n]] = shares.get(labels[n], 0) + weight * part
                    before = voters.get(places[n], (0, np.inf))
                    near = min(before[1], np.sqrt(distances[n]) / LENGTH)
                    voters[places[n]] = (before[0] + weight * part, near)
        assert found.label == session.labels(frame)[y, x]
        assert found.said == (frame == 0 and (y, x) == (10, 10))
        assert found.shares == pytest.approx({int(k): v for k, v in shares.items()}, abs=1e-5)
        assert sum(found.shares.values()) == pytest.approx(1, abs=1e-5)
        assert len(found.references) == len(voters)
        for reference in found.references:
            cell = session.grid.cell_of((np.array([reference.y]), np.array([reference.x])))[0]
            weight, near = voters[reference.frame * cells + cell]
            assert (reference.weight, reference.distance) == pytest.approx((weight, near), abs=1e-5)
        weights = [r.weight for r in found.references]
        assert weights == sorted(weights, reverse=True)


def test_why_before_anything_is_said():
    found = why(Session(COLOR, VIDEO, cache=None), 2, 5, 5)
    assert found.label == 0 and not found.said and not found.shares and not found.references


@pytest.mark.parametrize("every", [1, 2])
def test_margins_against_all_distances(session, every):
    rows, places, labels = everything(session)
    found = margins(session, 3, every)
    cells = session.embedded.cells
    for y, x in np.ndindex(found.shape):
        query = rows[3 * cells + y * every * session.grid.cells[1] + x * every]
        distances = np.sqrt(((rows[places] - query) ** 2).sum(-1))
        nearest = sorted(distances[labels == i].min() for i in np.unique(labels))
        assert found[y, x] == pytest.approx(1 - nearest[0] / nearest[1] if nearest[1] else 0, abs=1e-5)


def test_nothing_is_sure_while_one_label_is_marked():
    session = Session(COLOR, VIDEO, cache=None)
    assert not margins(session, 0).any()
    session.click(0, 5, 5, 1)
    assert not margins(session, 0).any()
    session.mask(1, np.arange(41 * 55).reshape(41, 55) % 55 // 28)  # many of each label: several blocks
    assert (margins(session, 1) > 0).any()
    assert margins(session, 0).shape == session.grid.cells


def test_colours_are_the_principal_components_of_the_whole_video(session):
    rows, _, _ = everything(session)
    rows = rows[: session.embedded.count * session.embedded.cells]
    basis = principal(session.embedded)
    centred = rows - rows.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:3].T
    assert np.abs(basis.directions.T @ directions) == pytest.approx(np.eye(3), abs=1e-4)
    assert basis.deviations == pytest.approx((centred @ directions).std(0), rel=1e-4)
    frame = colours(session.embedded, 2, basis)
    assert frame.shape == (*session.grid.cells, 3) and frame.dtype == np.uint8
    every = np.stack([colours(session.embedded, i, basis) for i in range(session.embedded.count)]).reshape(-1, 3)
    assert np.abs(every.mean(0) - 127).max() < 12  # grey is the mean
    assert (every.std(0) > 20).all()


def test_inputs_that_are_taken_back():
    session = Session(COLOR, VIDEO, cache=None)
    session.click(0, 10, 10, 1)
    session.click(0, 20, 20, 2)
    session.click(3, 30, 30, 0)
    session.box(2, 8, 8, 20, 20, 1)
    before = session.grid_labels()
    assert session.objects() == [1, 2] and session.marked_cells()[0] == 2
    session.remove(1)  # in the middle of the history
    other = Session(COLOR, VIDEO, cache=None)
    for edit in (session.edits[0], *session.edits[2:4]):
        other.apply(edit)
    assert np.array_equal(session.grid_labels(), other.grid_labels())
    assert list(session.inputs()) == [0, 2, 3] and session.objects() == [1]
    assert session.undo() and np.array_equal(session.grid_labels(), before)
    session.forget(1)
    assert session.objects() == [2] and list(session.inputs()) == [1, 2]
    assert not (session.labels(2) == 1).any()
    session.click(5, 5, 5, 1)  # said anew
    assert session.objects() == [1, 2] and list(session.inputs()) == [1, 2, 5]
    session.undo()
    session.undo()
    assert np.array_equal(session.grid_labels(), before)
    session.redo()
    copy = session.snapshot()
    session.clear()
    assert copy.objects() == [2] and session.objects() == [] and len(copy.edits) == 5


def test_the_ring_of_a_box_gives_way():
    session = Session(COLOR, VIDEO, cache=None)
    session.click(0, 20, 32, 7)
    session.apply(Edit("box", 0, 1, ((10, 10), (20, 20)), ring=12))
    pixels = session.said(0).pixels
    for y, x in np.ndindex(*pixels.shape):
        inside = 10 <= y <= 20 and 10 <= x <= 20
        around = -2 <= y <= 32 and -2 <= x <= 32
        expected = 1 if inside else 7 if (y, x) == (20, 32) else 0 if around else -1
        assert pixels[y, x] == expected
    cells = session.said(0).cells.reshape(session.grid.cells)
    # Pixel 20 belongs to the cell around 24.
    assert cells[3, 3] == 1 and cells[4, 4] == 0 and cells[3, 4] == 7
