"""The page's server: what it answers equals a Session's answers, what it refuses, what is left when it is killed."""

import http.client
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from contextlib import suppress
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the page needs the extra app")
httpx = pytest.importorskip("httpx")

import uvicorn  # noqa: E402

import pmljax  # noqa: E402
from experiments.page_drive import served, until  # noqa: E402
from pmljax import annotating, answers, cli  # noqa: E402
from pmljax.editlog import EditLog, header_of, read_log  # noqa: E402
from pmljax.embedded import Embedded  # noqa: E402
from pmljax.errors import InputError  # noqa: E402
from pmljax.inputs import Edit, from_json  # noqa: E402
from pmljax.interact import Session  # noqa: E402
from pmljax.labels import encode_labels, read_labels  # noqa: E402
from pmljax.page import desk as desks  # noqa: E402
from pmljax.page import warming, work  # noqa: E402
from pmljax.page.app import MASK, make_app  # noqa: E402
from pmljax.page.desk import Desk  # noqa: E402
from pmljax.page.exports import coco_counts  # noqa: E402
from pmljax.page.film import Film  # noqa: E402
from pmljax.page.guard import answers_to  # noqa: E402
from pmljax.page.wire import labels_of, packet, packets, runs  # noqa: E402
from pmljax.page.work import INPUT, OTHERS, SOME_TIME, Worker  # noqa: E402
from pmljax.presets import session_vote  # noqa: E402
from pmljax.scribbles import davis_scribbles  # noqa: E402
from pmljax.segmenting import vote_rule  # noqa: E402
from pmljax.weights import load  # noqa: E402
from pmljax.weights.bundled import fingerprint  # noqa: E402

SIZE = (95, 150)
WARMER = warming.warmer  # the tests have one that does nothing
COLOR = load("color")


class Page:
    """An application with a client, closed and opened again at will."""

    def __init__(self, folder, out, cache, ready=True, chosen=None):
        self.frames = pmljax.frames(folder, **chosen or {})
        self.out, self.cache, self.token = out, cache, "t" * 32
        header = header_of(
            self.frames.digest(), fingerprint(COLOR), self.frames.size, vote=(1, None), seen=self.frames.size
        )
        self.log = EditLog(out, header)
        self.desk = Desk(self.frames, "color", self.opening, self.log)
        self.app = make_app(self.desk, self.token)
        listening = annotating.bind("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(self.app, log_level="critical", http="h11", ws="none", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]})
        self.thread.start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        if ready:
            until(lambda: self.get("state").json()["phase"] == "ready")

    def opening(self, advance):
        return Session(COLOR, self.frames, cache=self.cache, advance=advance)

    def close(self):
        if self.thread.is_alive():
            self.client.close()
            self.server.should_exit = True
            self.thread.join(20)
            self.log.close()

    def raw(self, path):
        """(status, body) of a path that no client has tidied."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest("GET", path, skip_host=False)
        connection.endheaders()
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found

    def get(self, path, **options):
        return self.client.get(f"/{self.token}/{path}", **options)

    def edit(self, item, view=0):
        text = item if isinstance(item, (str, bytes)) else json.dumps(item)
        return self.client.post(f"/{self.token}/edit?view={view}", content=text)

    def mask(self, data, frame=0, more=""):
        return self.client.post(f"/{self.token}/mask?frame={frame}&view={frame}{more}", content=data)

    def labels(self, *frames):
        found = packets(self.get("frames?frames=" + ",".join(map(str, frames))).content)
        return {about["frame"]: labels_of(body, SIZE) for about, body in found}


@pytest.fixture(autouse=True)
def nothing_extra(monkeypatch):
    """What compiles ahead of need would only take the tests' time."""
    monkeypatch.setattr(desks, "warmer", lambda session: [])
    monkeypatch.setattr(desks, "QUIET", 0.05)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def page(made, tmp_path, cache):
    page = Page(made.folder, tmp_path / "out", cache)
    yield page
    page.close()


def direct(page, log=None):
    """A session of its own, told what the log says."""
    session = page.opening(lambda: None)
    for edit in read_log(page.log.path, {})[0] if log is None else log:
        session.apply(edit)
    return session


SCRIPT = [
    {"op": "click", "frame": 0, "y": 40, "x": 40, "label": 1},
    {"op": "click", "frame": 0, "y": 90, "x": 140, "label": 0},
    {"op": "scribble", "frame": 3, "points": [[10, 10], [20, 60], [70, 80]], "width": 5, "label": 2},
    {"op": "box", "frame": 2, "top": 10, "left": 20, "bottom": 40, "right": 50, "label": 3, "ring": 8},
    {"op": "undo"},
    {"op": "redo"},
    {"op": "name", "label": 2, "name": "the second"},
    {"op": "erase", "frame": 3, "points": [[20, 60]], "width": 11},
    {"op": "remove", "input": 0},
    {"op": "undo"},
    {"op": "forget", "label": 3},
    {"op": "undo"},
    {"op": "undo"},
]


def test_every_answer_is_the_sessions_and_the_log_brings_it_back(page, made, tmp_path, cache):
    session = page.opening(lambda: None)
    for i, item in enumerate(SCRIPT):
        ((about, body),) = packets(page.edit(item, view=i % 8).content)
        session.apply(from_json(item))
        assert about["revision"] == about["state"]["revision"] == i + 1 and about["frame"] == i % 8
        assert np.array_equal(labels_of(body, SIZE), session.labels(i % 8))
        assert [m["input"] for m in about["inputs"]] == [n for n, e in session.inputs().items() if e.frame == i % 8]
    ((about, _),) = packets(page.mask(made.mask.read_bytes(), frame=5).content)
    session.mask(5, made.truth[0])
    assert about["revision"] == len(SCRIPT) + 1 and about["inputs"][0]["op"] == "mask"
    labels = page.labels(*range(8))
    assert all(np.array_equal(labels[i], session.labels(i)) for i in range(8))
    before = page.get("state").json()
    assert before["objects"] == [{"label": i, "name": {2: "the second"}.get(i, "")} for i in session.objects()]
    assert before["references"] == {str(f): n for f, n in session.marked_cells().items()}
    page.close()

    again = Page(made.folder, tmp_path / "out", cache)
    try:
        after = again.get("state").json()
        for key in ("revision", "objects", "undo", "redo", "references", "inputs"):
            assert after[key] == before[key], key
        assert all(np.array_equal(found, labels[i]) for i, found in again.labels(*range(8)).items())
        for op in [*["undo"] * 20, *["redo"] * 30]:  # the same history
            again.edit({"op": op})
            getattr(session, op)()
            assert again.get("state").json()["inputs"] == len(session.inputs())
        assert all(np.array_equal(found, session.labels(i)) for i, found in again.labels(*range(8)).items())
    finally:
        again.close()


def test_an_undo_of_nothing_is_no_input(page):
    for op in ("undo", "redo"):
        ((about, _),) = packets(page.edit({"op": op}).content)
        assert about["revision"] == 0
    assert read_log(page.log.path, {})[0] == []


def test_views(page):
    for item in SCRIPT[:3]:
        page.edit(item)
    session = direct(page)
    found = page.get("why?frame=3&y=12&x=17").json()
    assert found["said"] and found["label"] == 2 and found["revision"] == 3
    assert sum(found["shares"].values()) == pytest.approx(1) and found["references"][0]["frame"] in (0, 3)
    ((about, body),) = packets(page.get("margins?frame=1").content)
    assert about["grid"] == list(session.grid.cells) and len(body) >= np.prod(about["grid"])
    assert about["cell"] == [8, 8] and about["origin"] == [-3.5, -3.5]
    ((about, body),) = packets(page.get("colours?frame=1").content)
    assert len(np.unique(np.frombuffer(body, np.uint8))) > 20
    until(lambda: all(r == 3 for r, _ in page.desk._sure))
    assert all(0 < s < 1000 for _, s in page.desk._sure)


def test_one_frame_that_fails_in_the_background_does_not_keep_the_others_from_being_known(page, monkeypatch, capfd):
    def fails(session, index, *step):
        if index == 2:
            raise RuntimeError("of frame 2")
        return known(session, index, *step)

    known = desks.margins
    monkeypatch.setattr(desks, "margins", fails)
    page.edit(SCRIPT[0])
    until(lambda: all(r == 1 for r, _ in page.desk._sure))
    assert [i for i, (_, s) in enumerate(page.desk._sure) if s < 0] == [2]
    assert "of frame 2" in capfd.readouterr().err


def test_pictures_are_the_frames(page, made):
    from PIL import Image

    for i in (0, 7):
        answer = page.get(f"picture/{i}.jpg")
        image = np.array(Image.open(io.BytesIO(answer.content)))
        assert np.abs(image.astype(int) - made.frames[i]).mean() < 6
    assert page.get("picture/8.jpg").status_code == 404


def test_exports(page, made):
    for item in SCRIPT:
        page.edit(item)
    session = direct(page)
    with zipfile.ZipFile(io.BytesIO(page.get("export/masks.zip").content)) as archive:
        assert archive.namelist() == [f"{i:05d}.png" for i in range(8)]
        for i in range(8):
            (page.out / "x.png").write_bytes(archive.read(f"{i:05d}.png"))
            assert np.array_equal(read_labels(page.out / "x.png"), session.labels(i))
    coco = page.get("export/coco.json").json()
    assert [c["name"] for c in coco["categories"]] == ["object 1", "the second", "object 3"]
    assert [i["file_name"] for i in coco["images"]] == sorted(p.name for p in made.folder.iterdir())
    seen = np.zeros((8, *SIZE), np.uint8)
    for a in coco["annotations"]:
        mask = decoded(a["segmentation"]["counts"], SIZE)
        assert mask.sum() == a["area"]
        x, y, w, h = a["bbox"]
        assert mask[y : y + h, x : x + w].sum() == a["area"] and mask[y].any() and mask[:, x + w - 1].any()
        seen[a["image_id"] - 1][mask] = a["category_id"]
    assert all(np.array_equal(seen[i], session.labels(i)) for i in range(8))
    scribbles = page.get("export/scribbles.json").json()["scribbles"]
    assert [len(s) for s in scribbles] == [2, 0, 1, 1, 0, 0, 0, 0]
    (page.out / "overlay.mp4").write_bytes(page.get("export/overlay.mp4").content)
    assert len(list(pmljax.frames(page.out / "overlay.mp4"))) == 8
    assert page.get("export/passwords").status_code == 404


def test_what_cannot_be_taken_is_not_written_down(page, monkeypatch):
    """An input that fails only where it is applied: no line in the log, and work goes on."""

    def unreadable(*_):
        raise InputError("the embeddings cannot be read")

    page.edit(SCRIPT[0])
    with monkeypatch.context() as patch:
        patch.setattr(Embedded, "rows", unreadable)
        assert page.edit(SCRIPT[1]).status_code == 400
    assert len(read_log(page.log.path, {})[0]) == 1 and page.get("state").json()["revision"] == 1
    assert page.edit(SCRIPT[2]).status_code == 200
    assert [e.op for e in read_log(page.log.path, {})[0]] == ["click", "scribble"]


def test_a_removal_is_of_the_marks_that_the_page_knows(page):
    for item in SCRIPT[:2]:
        page.edit(item)
    late = {"op": "remove", "input": 1, "revision": 1}  # another tab clicked since
    assert page.edit(late).status_code == 409 and len(read_log(page.log.path, {})[0]) == 2
    for unknown in ("2", 2.0, True):
        answer = page.edit(late | {"revision": unknown})
        assert (
            answer.status_code == 400 and "revision: found" in answer.text and len(read_log(page.log.path, {})[0]) == 2
        )
    assert page.edit(late | {"revision": 2}).status_code == 200 and page.edit({"op": "undo"}).status_code == 200


def test_scribbles_are_of_the_sources_frames_and_say_nothing_that_was_erased(made, tmp_path, cache):
    page = Page(made.folder, tmp_path / "out", cache, chosen={"start": 2, "every": 2})
    try:
        for item in (
            {"op": "click", "frame": 1, "y": 40, "x": 40, "label": 1},
            {"op": "scribble", "frame": 0, "points": [[10, 10], [20, 60]], "label": 2},
            {"op": "erase", "frame": 0, "points": [[10, 10], [20, 60]], "width": 5},
            {"op": "click", "frame": 0, "y": 80, "x": 90, "label": 0},
        ):
            assert page.edit(item).status_code == 200
        found = page.get("export/scribbles.json").json()["scribbles"]
        assert [[s["object_id"] for s in frame] for frame in found] == [[], [], [0], [], [1], [], [], []]
        (tmp_path / "s.json").write_text(json.dumps({"scribbles": found}))
        edits = davis_scribbles(tmp_path / "s.json", page.frames.size, place=page.frames.place)
        assert [(e.frame, e.points, e.label) for e in edits] == [(0, ((80, 90),), 0), (1, ((40, 40),), 1)]
    finally:
        page.close()


def test_an_export_that_nobody_waits_for_ends(made, tmp_path, cache, monkeypatch):
    """A server that stops does not wait for an export, and the export leaves nothing behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    begun, frames = threading.Event(), []

    def slow(session, frame):
        begun.set()
        frames.append(frame)
        time.sleep(0.5)
        return np.zeros(SIZE, np.uint8)

    page = Page(made.folder, tmp_path / "out", cache)
    page.edit(SCRIPT[0])
    monkeypatch.setattr(Session, "labels", slow)

    def ask():
        with suppress(httpx.HTTPError):
            page.get("export/masks.zip")

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(20)
    page.server.should_exit = True
    page.thread.join(20)
    asking.join(20)
    assert not page.thread.is_alive() and not asking.is_alive()
    until(lambda: not list(tmp_path.glob("pmljax-*")))
    assert len(frames) < 8
    page.client.close()
    page.log.close()


def decoded(text, size):
    """A COCO mask, as its API reads it."""
    counts, i = [], 0
    while i < len(text):
        x, k, more = 0, 0, True
        while more:
            c = ord(text[i]) - 48
            x |= (c & 0x1F) << (5 * k)
            more = bool(c & 0x20)
            i, k = i + 1, k + 1
            if not more and c & 0x10:
                x |= -1 << (5 * k)
        counts.append(x + counts[-2] if len(counts) > 2 else x)
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(size[::-1]).T.astype(bool)


def test_runs_and_packets_and_coco_come_back(rng):
    for labels in (rng.integers(0, 4, (7, 9)), np.zeros((3, 5)), np.full((1, 1), 9)):
        labels = labels.astype(np.uint8)
        assert np.array_equal(labels_of(runs(labels), labels.shape), labels)
        assert np.array_equal(decoded(coco_counts(labels == 1), labels.shape), labels == 1)
    data = packet({"ä": 1}, b"abc") + packet({}) + packet({"x": [1]}, b"12345678")
    assert [(a, len(b) % 4) for a, b in packets(data)] == [({"ä": 1}, 0), ({}, 0), ({"x": [1]}, 0)]


def test_the_same_masks_without_a_page(page, made, tmp_path, capsys, monkeypatch):
    for item in SCRIPT:
        page.edit(item)
    monkeypatch.setenv("PMLJAX_CACHE", str(page.cache))
    arguments = ["segment", str(made.folder), "--out", str(tmp_path / "masks"), "--overlay", "none"]
    assert cli.main([*arguments, "--edits", str(page.log.path), "--model", "color"]) == 0
    for i, labels in page.labels(*range(8)).items():
        assert np.array_equal(read_labels(tmp_path / "masks" / f"{i:05d}.png"), labels)
    assert cli.main([*arguments, "--edits", str(page.log.path), "--model", "random:small"]) == 2
    assert "this log is of another model" in capsys.readouterr().err
    assert cli.main([*arguments, "--edits", str(page.log.path), "--model", "color", "--neighbours", "3"]) == 2
    assert "this log is of another k (k: found 1, now 3)" in capsys.readouterr().err

    # A log begun with other neighbours goes on with them.
    first, *rest = page.log.path.read_text().splitlines(keepends=True)
    of_three = tmp_path / "three.jsonl"
    of_three.write_text("".join([json.dumps(json.loads(first) | {"k": 3}) + "\n", *rest]))
    session = Session(COLOR, page.frames, k=3, cache=page.cache)
    for edit in read_log(of_three, {})[0]:
        session.apply(edit)
    arguments = ["segment", str(made.folder), "--out", str(tmp_path / "of three"), "--overlay", "none"]
    assert cli.main([*arguments, "--edits", str(of_three), "--model", "color"]) == 0
    for i in range(8):
        assert np.array_equal(read_labels(tmp_path / "of three" / f"{i:05d}.png"), session.labels(i))


def test_a_log_with_the_default_vote_of_a_network(made, tmp_path, cache, monkeypatch):
    monkeypatch.setenv("PMLJAX_CACHE", str(cache))
    model, frames = load("random:small"), pmljax.frames(made.folder)
    session = Session(model, frames, cache=cache)
    vote = vote_rule(None, tmp_path / "edits.jsonl", model.config)
    assert vote == session_vote(model.config) == (session.k, session.temperature)
    assert vote_rule(4, tmp_path / "edits.jsonl", model.config) == (4, None)
    header = header_of(frames.digest(), fingerprint(model), frames.size, vote=vote, seen=session.grid.seen)
    log = EditLog(tmp_path, header)
    for item in SCRIPT[:4]:
        edit = from_json(item)
        log.append(edit)
        session.apply(edit)
    log.close()
    assert vote_rule(None, log.path, COLOR.config) == vote
    arguments = ["segment", str(made.folder), "--out", str(tmp_path / "masks"), "--overlay", "none"]
    assert cli.main([*arguments, "--edits", str(log.path), "--model", "random:small"]) == 0
    for i in range(8):
        assert np.array_equal(read_labels(tmp_path / "masks" / f"{i:05d}.png"), session.labels(i))


def test_nothing_is_compiled_for_a_user_who_undoes_twice(made, cache):
    """What `warm` and `warmer` do on the side has compiled it: with few marks, with more than vote, after a scribble."""
    session = Session(load("random:small"), pmljax.frames(made.folder), cache=cache)
    warming.warm(session)
    for step in WARMER(session.snapshot()):
        step()
    calls = [getattr(answers, name) for name in ("add", "search", "remove", "have", "search_anew", "votes")]
    compiled = [call._cache_size() for call in calls]
    for marks in (1, 3, 12, 20):
        while len(session.marked()[0]) < marks:
            n = len(session.marked()[0])
            session.click(1, 4 + 8 * (n // 12), 8 * (n % 12) + 4, n % 3)
            session.labels(1)
        for edit in (Edit("click", 3, 1, ((40, 60),)), Edit("click", 3, 0, ((80, 20),))):
            session.apply(edit)
            session.labels(3)
        for _ in range(2):
            session.undo()
            session.labels(3)
    assert [call._cache_size() for call in calls] == compiled


def test_a_full_disk_is_refused_clearly_and_work_goes_on(page, monkeypatch):
    page.edit(SCRIPT[0])
    before = page.labels(0)[0]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pmljax.editlog.os.write", full)
        answer = page.edit(SCRIPT[1])
    assert answer.status_code == 507 and "No space left on device" in answer.json()["error"]
    assert page.get("state").json()["revision"] == 1 and np.array_equal(page.labels(0)[0], before)
    assert page.edit(SCRIPT[1]).status_code == 200
    assert len(read_log(page.log.path, {})[0]) == 2


def test_a_newer_input_overtakes():
    worker, order, gate = Worker(), [], threading.Event()
    first = worker.submit(OTHERS, gate.wait)
    others = [worker.submit(u, lambda u=u: order.append(u)) for u in (SOME_TIME, OTHERS, OTHERS, INPUT)]
    others.append(worker.submit(INPUT, lambda: 1 / 0))
    gate.set()
    for future in (first, *others):
        future.exception(10)
    assert order == [INPUT, OTHERS, OTHERS, SOME_TIME] and isinstance(others[-1].exception(), ZeroDivisionError)


def test_a_stopped_worker_has_ended_unless_it_takes_too_long(monkeypatch):
    worker, order, gate = Worker(), [], threading.Event()
    worker.submit(OTHERS, lambda: time.sleep(0.3))
    worker.submit(SOME_TIME, lambda: order.append("waited"))
    worker.stop()
    assert order == ["waited"] and not worker._thread.is_alive()

    monkeypatch.setattr(work, "PATIENCE", 0.1)
    worker = Worker()
    held = worker.submit(INPUT, lambda: gate.wait(10))
    worker.stop()
    assert not held.done() and worker._thread.is_alive()
    gate.set()
    worker._thread.join(10)
    assert held.result() and not worker._thread.is_alive()


def test_a_closed_page_leaves_nothing_behind(made, tmp_path, cache):
    before = set(threading.enumerate())
    page = Page(made.folder, tmp_path / "out", cache)
    computing = [t for t in set(threading.enumerate()) - before if t.name == "pmljax-page"]
    page.close()
    for thread in computing:
        thread.join(60)  # what was being computed ends first
    assert len(computing) == 1 and not computing[0].is_alive()
    with pytest.raises(ValueError, match="closed"):
        page.desk.film.picture(0)


def test_a_page_that_is_stopped_while_it_embeds_has_not_failed(made, tmp_path, cache):
    frames, begun = pmljax.frames(made.folder), threading.Event()

    def slow(advance):
        for _ in range(1000):
            begun.set()
            time.sleep(0.01)
            advance()
        raise AssertionError

    log = EditLog(tmp_path, {"format": 1})
    desk = Desk(frames, "color", slow, log)
    desk.worker.submit(INPUT, desk._open)
    desk.film.start()
    assert begun.wait(10)
    desk.stop()
    log.close()
    assert desk.phase == "stopped" and "nothing is lost" in desk.message


def test_a_log_that_does_not_fit_ends_the_command(made, tmp_path, cache):
    """The page hears why, then the command says it: not a server that is there and does nothing."""
    code = "import sys; from pmljax.cli import main; sys.exit(main())"
    given = ["annotate", str(made.folder), "--model", "color", "--no-open", "--out", str(tmp_path)]
    page = Page(made.folder, tmp_path, cache)
    page.edit(SCRIPT[0])
    page.close()
    with page.log.path.open("a") as file:
        file.write('{"op": "click", "frame": 999, "y": 0, "x": 0, "label": 1}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PMLJAX_CACHE", str(cache))
        process = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, timeout=60)
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert "edits.jsonl: line 3: click on frame 999: expected a frame in 0…7" in process.stderr


def test_ctrl_c_with_a_page_open_is_quiet_and_told(made, tmp_path, cache):
    """Twice, from an impatient hand, as once."""
    with (
        served(made.folder, "--model", "color", "--out", tmp_path, cache=cache) as server,
        httpx.Client(timeout=30) as client,
    ):
        until(lambda: client.get(f"{server.address}state").json()["phase"] == "ready", 60)
        with client.stream("GET", f"{server.address}changes") as changes:
            lines = changes.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGINT)
            told = [next(line for line in lines if "stopped" in line)]
            server.process.send_signal(signal.SIGINT)
            told += list(lines)
            assert any('"phase": "stopped"' in line for line in told), told
        assert server.process.wait(20) == 130
        assert server.process.stderr and not re.search("Traceback|ERROR", server.process.stderr.read())


def test_a_film_is_closed_while_it_is_read(made):
    read = threading.Event()

    def endless():
        for number, frame in enumerate(itertools.cycle(pmljax.frames(made.folder).stamped())):
            if number == 20:
                read.set()
            yield frame

    film = Film(endless)
    film.start()
    assert read.wait(20) and film.picture(0)[:2] == b"\xff\xd8"
    film.close()
    assert film.done.is_set() and len(film) >= 20 and not film.error
    with pytest.raises(ValueError, match="closed"):
        film.picture(0)


# What is refused


def test_another_host_origin_or_token(page):
    good = f"/{page.token}/state"
    for headers in (
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "evil.example:80"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://127.0.0.1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ):
        for call in (page.client.get, page.client.post):
            answer = call(good, headers=headers)
            assert answer.status_code == 403 and "revision" not in answer.text
    own = f"127.0.0.1:{page.port}"
    for headers in ({"host": "localhost:80"}, {"origin": f"http://{own}"}, {"sec-fetch-site": "same-origin"}):
        assert page.client.get(good, headers=headers).status_code == 200
    for token in ("", "x", page.token[:-1], page.token + "t", page.token.upper(), "%00", "%C3%A9", "%FF"):
        assert page.raw(f"/{token}/state")[0] == 404
    answer = page.client.get(good)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["referrer-policy"] == "no-referrer"
    assert "'unsafe" not in answer.headers["content-security-policy"]
    assert page.client.options(good).status_code == 405 and page.client.delete(good).status_code == 405


def test_whom_a_server_on_the_network_answers_to():
    assert answers_to("10.0.0.7:80", "0.0.0.0") and answers_to("[fe80::1]:80", "::")
    assert answers_to(socket.gethostname(), "0.0.0.0") and answers_to("box.lan", "box.lan")
    assert not answers_to("evil.example", "0.0.0.0") and not answers_to("", "127.0.0.1")
    assert not answers_to("10.0.0.7", "127.0.0.1") and answers_to("[::1]:9", "127.0.0.1")


@pytest.mark.parametrize("place", ["", "static/", "picture/", "export/", "static/x/"])
def test_no_path_reaches_the_files(page_for_bad, place):
    page = page_for_bad
    for climb in ("../" * 8, "..%2f" * 8, "%2e%2e/" * 8, "..\\" * 8, "....//" * 8, "/"):
        status, text = page.raw(f"/{page.token}/{place}{climb}etc/passwd")
        assert 400 <= status < 500 and "root" not in text
    assert page.raw(f"/{page.token}/static/app.py")[0] == page.raw(f"/{page.token}/static/../app.py")[0] == 404


BAD = [
    b"",
    b"{",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"7",
    b'"x"',
    b"[" * 100_000,
    b'{"op": "click"}',
    b'{"op": "jump"}',
    b'{"op": ["click"]}',
    b'{"op": "mask", "frame": 0, "labels": "AAAA"}',
    b'{"op": "click", "frame": 99, "y": 1, "x": 1, "label": 1}',
    b'{"op": "click", "frame": 0, "y": -1, "x": 1, "label": 1}',
    b'{"op": "click", "frame": 0, "y": 1e999, "x": 1, "label": 1}',
    b'{"op": "click", "frame": 0, "y": NaN, "x": 1, "label": 1}',
    b'{"op": "click", "frame": 0, "y": "1", "x": 1, "label": 1}',
    b'{"op": "click", "frame": 0, "y": 1, "x": 1, "label": 255}',
    b'{"op": "click", "frame": true, "y": 1, "x": 1, "label": 1}',
    b'{"op": "click", "frame": {}, "y": 1, "x": 1, "label": 1}',
    b'{"op": "scribble", "frame": 0, "points": [], "label": 1}',
    b'{"op": "scribble", "frame": 0, "points": [[1]], "label": 1}',
    b'{"op": "scribble", "frame": 0, "points": 5, "label": 1}',
    b'{"op": "scribble", "frame": 0, "points": [[1, 1]], "width": 1000000000, "label": 1}',
    b'{"op": "erase", "frame": 0, "points": [[1, 1]], "width": 0}',
    b'{"op": "box", "frame": 0, "top": 0, "left": 0, "bottom": 1000000, "right": 5, "label": 1}',
    b'{"op": "box", "frame": 0, "top": 0, "left": 0, "bottom": 5, "right": 5, "label": 1, "ring": 1e9}',
    b'{"op": "remove", "input": 0}',
    b'{"op": "remove", "input": -1}',
    b'{"op": "forget", "label": 0}',
    b'{"op": "name", "label": 1, "name": 5}',
    b'{"op": "name", "label": 1, "name": "\\u0000"}',
    b'{"op": "name", "label": 300, "name": "x"}',
    b'{"op": "name", "label": 1, "name": "' + b"x" * 100 + b'"}',
    b" " * 300_000,
]


@pytest.mark.parametrize("body", BAD, ids=lambda b: b[:50].decode("latin1"))
def test_malformed_inputs_change_nothing(page_for_bad, body):
    page = page_for_bad
    answer = page.edit(body)
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()) == {"error"} and "/" + "work" not in answer.text and "Traceback" not in answer.text
    assert page.get("state").json()["revision"] == 0 and read_log(page.log.path, {})[0] == []


@pytest.fixture(scope="module")
def page_for_bad(made, tmp_path_factory, cache):
    page = Page(made.folder, tmp_path_factory.mktemp("bad"), cache)
    yield page
    page.close()


QUESTIONS = [
    *(f"frames{q}" for q in ("", "?frames=", "?frames=-1", "?frames=8", "?frames=0,99", "?frames=1.5")),
    *("margins?frame=9", "why?frame=0&y=95&x=0", "why?frame=0", "colours?frame=x", "edit", "edit?view=x"),
    *("nothing", "picture/x.jpg", "picture/-1.jpg"),
]


@pytest.mark.parametrize("path", [*QUESTIONS, "frames?frames=" + ",".join(["1"] * 65)])
def test_malformed_questions(page_for_bad, path):
    answer = page_for_bad.get(path)
    assert 400 <= answer.status_code < 500 and "Traceback" not in answer.text


def png(width, height, data=b"", depth=8, colour=0):
    """A PNG whose header may promise anything."""

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head = chunk(b"IHDR", size + bytes([depth, colour, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_masks_that_are_none(page_for_bad, made):
    page = page_for_bad
    bomb = zlib.compress(b"\0" * 50_000_000)
    wide = zlib.compress((b"\0" + b"\0" * 300) * 95)
    text = png(150, 95, wide, depth=16)
    for data, status in [
        (b"", 400),
        (b"hello", 400),
        (made.folder.joinpath("00000.png").read_bytes(), 400),  # a photograph
        (encode_labels(np.zeros((3, 3), np.uint8)), 400),
        (png(60_000, 60_000, bomb), 413),
        (png(150, 95, bomb), 200),  # decoded no further than its size says
        (png(150, 95), 400),
        (png(150, 95, b"rubbish"), 400),
        (png(2**31 - 1, 2**31 - 1), 413),
        (png(0, 0), 400),
        (text, 400),
        (b"GIF89a" + bytes(100), 400),
        (b"\x89PNG\r\n\x1a\n" + bytes(MASK), 413),
    ]:
        answer = page.mask(data)
        assert answer.status_code == status, (len(data), answer.text)
        if status == 200:
            assert page.edit({"op": "undo"}).status_code == 200
    assert page.client.post(f"/{page.token}/mask?frame=99&view=0", content=made.mask.read_bytes()).status_code == 400


def test_a_mask_of_one_object_is_the_chosen_one_s(page, made):
    """White on black does not say whose it is; one after the other, such masks are those of several objects."""
    two = made.truth[0]
    for label in (2, 1):
        data = io.BytesIO()
        Image.fromarray(np.where(two == label, 255, 0).astype(np.uint8)).save(data, "PNG")
        assert page.mask(data.getvalue(), more=f"&label={label}").status_code == 200
    assert np.array_equal(page.labels(0)[0], two)
    assert (
        page.mask(encode_labels((two == 1).astype(np.uint8)), more="&label=2").status_code == 200
    )  # a palette's are ids
    assert np.array_equal(page.labels(0)[0], two == 1)
    assert page.edit({"op": "clear"}).status_code == 200
    for label in (0, 255, "x"):
        assert page.mask(data.getvalue(), more=f"&label={label}").status_code == 400


# The real server


@pytest.fixture(scope="module")
def real(made, tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("real") / "out"
    with served(made.folder, "--model", "color", "--out", out, cache=cache) as server:
        parts = urlsplit(server.address)
        wait_for(server.address)
        yield server, parts, out


def test_annotate_goes_on_with_the_neighbours_of_its_log(made, tmp_path, cache):
    frames = pmljax.frames(made.folder)
    three, one = (Session(COLOR, frames, k=k, cache=cache) for k in (3, 1))
    header = header_of(frames.digest(), fingerprint(COLOR), frames.size, vote=(3, None), seen=three.grid.seen)
    log = EditLog(tmp_path, header)
    for item in SCRIPT[:4]:
        log.append(from_json(item))
        for session in (three, one):
            session.apply(from_json(item))
    log.close()
    with served(made.folder, "--model", "color", "--out", tmp_path, cache=cache) as server:
        wait_for(server.address)
        found = packets(httpx.get(server.address + "frames?frames=0,5", timeout=30).content)
        for about, body in found:
            labels = labels_of(body, SIZE)
            assert np.array_equal(labels, three.labels(about["frame"]))
            assert not np.array_equal(labels, one.labels(about["frame"]))
    assert len(found) == 2


def wait_for(address):
    return until(lambda: (s := httpx.get(address + "state").json())["phase"] == "ready" and s)


def told(address, kind, enough):
    """Events of a kind from the stream until one is enough."""
    with httpx.stream("GET", address + "changes", timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        event = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: ") and event == kind and enough(found := json.loads(line[6:])):
                return found
    raise AssertionError


def test_tabs_are_told(real):
    server, _, _ = real
    before = httpx.get(server.address + "state").json()["revision"]
    heard = []
    tabs = [
        threading.Thread(
            target=lambda: heard.append(told(server.address, "state", lambda s: s["revision"] == before + 1))
        )
        for _ in range(3)
    ]
    for tab in tabs:
        tab.start()
    time.sleep(0.5)
    httpx.post(server.address + "edit?view=0", content=json.dumps(SCRIPT[0]))
    for tab in tabs:
        tab.join(20)
    assert len(heard) == 3 and all(h == heard[0] for h in heard)
    httpx.post(server.address + "edit?view=0", content=json.dumps(SCRIPT[1]))
    assert told(server.address, "sure", lambda s: s["revision"] == before + 2 and min(s["sure"]) >= 0)


@pytest.mark.parametrize("head", ["Content-Length: 1073741824", "Transfer-Encoding: chunked", "Content-Length: x"])
@pytest.mark.parametrize("path", ["edit?view=0", "mask?frame=0&view=0"])
def test_an_upload_of_a_gigabyte_is_not_read(real, head, path):
    server, parts, _ = real
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as line:
        line.sendall(f"POST {parts.path}{path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{head}\r\n\r\n".encode())
        sent, block = 0, b"10000\r\n" + bytes(65536) + b"\r\n" if "chunked" in head else bytes(65536)
        try:
            while sent < 1 << 30 and not select_readable(line):
                line.sendall(block)
                sent += 65536
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 80 << 20
        answer = receive(line)
    assert answer == b"" or answer.split()[1] in (b"413", b"400"), answer[:100]
    assert httpx.get(server.address + "state").status_code == 200


def select_readable(line):
    import select

    return bool(select.select([line], [], [], 0)[0])


def receive(line):
    try:
        return line.recv(4096)
    except ConnectionResetError:
        return b""


def malformed(server, parts, count):
    rng = np.random.default_rng(0)
    connection, statuses = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30), set()
    before = httpx.get(server.address + "state").json()["revision"]
    for i in range(count):
        body = BAD[i % len(BAD)] if i % 2 else rng.bytes(int(rng.integers(0, 200)))
        path = ("edit?view=0", "mask?frame=0&view=0", "edit", "frames?frames=x")[i % 4]
        try:
            connection.request("POST", parts.path + path, body)
            answer = connection.getresponse()
            answer.read()
            statuses.add(answer.status)
        except (http.client.HTTPException, ConnectionError):
            connection.close()
    connection.close()
    assert statuses and all(400 <= status < 500 for status in statuses), statuses
    # And what is no HTTP at all.
    for _ in range(min(count // 10, 100)):
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as line:
            line.sendall(rng.bytes(300) + b"\r\n\r\n")
            receive(line)
    state = httpx.get(server.address + "state").json()
    assert state["revision"] == before and state["phase"] == "ready"


def test_malformed_messages(real):
    malformed(real[0], real[1], 400)


@pytest.mark.slow
def test_ten_thousand_malformed_messages(real):
    malformed(real[0], real[1], 10_000)


def test_the_log_shows_no_token_and_the_address_is_loopback(real):
    _, parts, out = real
    token = parts.path.strip("/")
    assert parts.hostname == "127.0.0.1" and len(token) >= 32
    assert token not in (out / "edits.jsonl").read_text()


def test_what_annotate_refuses(made, tmp_path, capsys, monkeypatch):
    arguments = ["annotate", str(made.folder), "--no-open", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):  # no preset is offered
        cli.main([*arguments, "--best"])
    assert cli.main([*arguments[:-1], str(made.folder)]) == 2
    with annotating.bind("127.0.0.1", 0) as taken:
        assert cli.main([*arguments, "--port", str(taken.getsockname()[1])]) == 2
        assert "expected a free port" in capsys.readouterr().err
    with pytest.raises(InputError, match="--port 99999"):
        annotating.bind("127.0.0.1", 99_999)
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert cli.main(arguments) == 2
    assert "pip install 'pmljax[app]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_video_that_breaks_off_is_told_on_the_page_and_in_one_line(made, tmp_path, cache):
    import shutil

    broken = tmp_path / "frames"
    shutil.copytree(made.folder, broken)
    whole = (broken / "00005.png").read_bytes()
    (broken / "00005.png").write_bytes(whole[: len(whole) // 2])
    with served(broken, "--model", "color", "--out", tmp_path / "out", cache=cache) as server:
        state = told(server.address, "state", lambda s: s["phase"] == "failed")
        assert "00005.png: broken or truncated picture" in state["message"]
        _, said = server.process.communicate(timeout=20)
        assert server.process.returncode == 2, said
        assert "00005.png" in said.splitlines()[-1]


# Killed


def kills(made, tmp_path, cache, count):
    """A session that is edited on and on, its server killed at a random moment again and again; nothing that was acknowledged
    is lost, and what comes back equals a session that was never killed."""
    rng, frames = np.random.default_rng(count), pmljax.frames(made.folder)
    session, out = Session(COLOR, frames, cache=cache), tmp_path / "out"
    acknowledged, flying, edits = 0, None, 0

    def something():
        y, x, i, label = (int(rng.integers(n)) for n in (*SIZE, 8, 4))
        kind = rng.choice(["click", "scribble", "erase", "mask", "undo", "redo", "forget", "name", "remove"])
        if kind == "mask":
            return Edit("mask", i, labels=made.truth[i])
        if (kind == "undo" and session.edits) or (kind == "redo" and session.undone):
            return Edit(str(kind))
        if kind == "forget":
            return Edit("forget", label=label + 1)
        if kind == "name":
            return Edit("name", label=label + 1, name=f"name {rng.integers(99)}")
        if kind == "remove" and session.inputs():
            return Edit("remove", target=int(rng.choice(list(session.inputs()))))
        if kind in ("scribble", "erase"):
            there = (int(rng.integers(SIZE[0])), int(rng.integers(SIZE[1])))
            return Edit(str(kind), i, label if kind == "scribble" else 0, ((y, x), there), int(rng.integers(1, 9)))
        return Edit("click", i, label, ((y, x),))

    for _ in range(count):
        with served(made.folder, "--model", "color", "--out", out, cache=cache) as server:
            state = wait_for(server.address)
            found = state["revision"]
            assert acknowledged <= found <= acknowledged + (flying is not None)
            if found > acknowledged:  # written, and killed before it could say so
                session.apply(flying)
            acknowledged, flying = found, None
            asked = packets(httpx.get(server.address + "frames?frames=0,3,6").content)
            for about, body in asked:
                assert np.array_equal(labels_of(body, SIZE), session.labels(about["frame"]))
            # So many edits and a random while: on a slow machine as many lie before the kill as on a fast one.
            last = edits + int(rng.integers(8))
            timer = threading.Timer(rng.uniform(0, 0.3), os.kill, [server.process.pid, signal.SIGKILL])
            with httpx.Client() as client:
                while True:
                    if edits == last:
                        timer.start()
                    flying = something()
                    try:
                        if flying.op == "mask":
                            query = f"mask?frame={flying.frame}&view=0"
                            answer = client.post(server.address + query, content=encode_labels(flying.labels))
                        else:
                            item = json.dumps(flying.to_json())
                            answer = client.post(server.address + "edit?view=0", content=item)
                    except httpx.TransportError:
                        break
                    assert answer.status_code == 200, answer.text
                    ((about, body),) = packets(answer.content)
                    session.apply(flying)
                    acknowledged, edits = acknowledged + 1, edits + 1
                    assert about["revision"] == acknowledged
                    assert np.array_equal(labels_of(body, SIZE), session.labels(0))
            timer.join()
    return edits


@pytest.mark.slow
def test_killed_many_times(made, tmp_path, cache):
    """PMLJAX_KILLS=200 is the whole of it: ten minutes."""
    count = int(os.environ.get("PMLJAX_KILLS", "50"))
    assert kills(made, tmp_path, cache, count) > 2 * count
