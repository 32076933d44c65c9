"""The page in a real browser against the real server: -m browser."""

import json
import threading

import httpx
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page needs the extra app")
pytest.importorskip("playwright", reason="no Playwright here: the browser's tests are left out")

from test_page import COLOR, SIZE, Page

import pmljax
from experiments.page_drive import browser, chromium, served, until
from pmljax.editlog import read_log
from pmljax.interact import Session
from pmljax.page.wire import labels_of, packets
from pmljax.weights import load

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no chromium here: the browser's tests are left out"),
]

# What the page believes, from its own modules.
INSIDE = """async (ask) => {
  const at = (name) => import(new URL(`static/${name}.js`, location.href).href);
  const { store, packetOf } = await at("store");
  const { labelsOf } = await at("paint");
  if (ask === "labels") {
    const p = packetOf(store.frame);
    return p ? [store.frame, p.revision, [...labelsOf(p.body, store.state.width * store.state.height)]] : null;
  }
  const { phase, revision, objects, count } = store.state;
  const { frame, label, tool, selected, mode } = store;
  return { phase, revision, objects, count, frame, label, tool, selected, mode };
}"""
PICTURE = "() => document.getElementById('canvas').toDataURL()"


@pytest.fixture(scope="module")
def opened():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


class Tab:
    def __init__(self, context, server):
        self.page, self.server, self.errors = context.new_page(), server, []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.open()

    def open(self):
        self.page.goto(self.server.address)
        self.page.wait_for_selector("body[data-phase=ready]", timeout=90_000)
        until(lambda: self.inside("labels"))
        self.page.wait_for_timeout(150)

    def inside(self, ask="state"):
        return self.page.evaluate(INSIDE, ask)

    def shows(self, revision):
        """The labels on the canvas, once they are of a revision."""
        found = until(lambda: (f := self.inside("labels")) and f[1] >= revision and f, 20)
        assert found[1] == revision
        self.page.wait_for_timeout(60)  # drawn
        return np.array(found[2], np.uint8).reshape(SIZE)

    def where(self, y, x):
        """The window's point of a pixel."""
        box = self.page.locator("#canvas").bounding_box()
        margin = 16 if box["width"] > 500 else 0
        scale = min((box["width"] - 2 * margin) / SIZE[1], (box["height"] - 2 * margin) / SIZE[0])
        left, top = box["x"] + (box["width"] - SIZE[1] * scale) / 2, box["y"] + (box["height"] - SIZE[0] * scale) / 2
        return left + (x + 0.5) * scale, top + (y + 0.5) * scale

    def click(self, y, x, **options):
        self.page.mouse.click(*self.where(y, x), **options)

    def drag(self, *points):
        self.page.mouse.move(*self.where(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.where(*point), steps=5)
        self.page.mouse.up()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)


@pytest.fixture
def tab(opened, made, tmp_path, cache):
    with served(made.folder, "--model", "color", "--out", tmp_path / "out", cache=cache) as server:
        context = opened.new_context(viewport={"width": 1280, "height": 720}, accept_downloads=True)
        tab = Tab(context, server)
        yield tab
        context.close()
    assert not tab.errors


def test_click_undo_redo(tab, made, tmp_path, cache):
    empty = tab.page.evaluate(PICTURE)
    tab.click(40, 40)
    assert (tab.shows(1) == 1).all()  # nothing else is known
    tab.click(90, 140, button="right")
    labels = tab.shows(2)
    session = Session(load("color"), pmljax.frames(made.folder), cache=cache)
    session.click(0, 40, 40, 1)
    session.click(0, 90, 140, 0)
    assert np.array_equal(labels, session.labels(0)) and labels[40, 40] == 1 and labels[90, 140] == 0
    painted = tab.page.evaluate(PICTURE)
    tab.press("Control+z", "Control+z")
    assert not tab.shows(4).any() and tab.page.evaluate(PICTURE) == empty != painted
    tab.press("Control+Shift+z")
    tab.page.locator("#redo").click()
    assert np.array_equal(tab.shows(6), labels)
    tab.press("End")
    until(lambda: tab.inside()["frame"] == 7)
    assert np.array_equal(tab.shows(6), session.labels(7))
    tab.page.reload()
    tab.open()
    assert np.array_equal(tab.shows(6), labels) and tab.page.evaluate(PICTURE) == painted


def test_scribbles_boxes_and_three_objects(tab, tmp_path):
    tab.press("w")
    tab.drag((20, 20), (40, 60))
    tab.press("a")  # a second object
    tab.drag((60, 20), (60, 60))
    tab.press("a", "e")
    tab.drag((20, 100), (50, 130))
    tab.press("0", "w")
    tab.drag((90, 5), (90, 145))
    labels = tab.shows(6)
    assert [o["label"] for o in tab.inside()["objects"]] == [1, 2, 3]
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert (labels[21:50, 101:130] == 3).all() and labels[30, 95] == 0 and labels[60, 40] == 2 and labels[90, 70] == 0
    # A number chooses an object, a name stays, a hidden object is not painted.
    tab.press("2", "F2")
    tab.page.keyboard.type("the dog", delay=120)  # news of how sure the frames are come meanwhile
    tab.press("Enter")
    until(lambda: tab.inside()["revision"] == 7)
    assert tab.page.get_by_text("the dog").first.is_visible()
    before = tab.page.evaluate(PICTURE)
    tab.press("h")
    tab.page.wait_for_timeout(200)
    assert tab.page.evaluate(PICTURE) != before
    tab.press("h")
    # The eraser takes back what was said, a mark that is selected is removed.
    tab.press("r")
    for _ in range(8):
        tab.press("]")
    tab.drag((60, 15), (60, 65))
    assert not (tab.shows(8) == 2).any()
    tab.press("v")
    tab.click(90, 70)
    assert tab.inside()["selected"] is not None
    tab.press("Delete")
    tab.shows(9)
    # Deleted, and brought back.
    row = tab.page.locator("#objects li[data-label='3']")
    row.hover()
    row.get_by_label("Delete").click()
    assert not (tab.shows(10) == 3).any()
    tab.press("Control+z")
    assert (tab.shows(11) == 3).any()
    log = read_log(tmp_path / "out/edits.jsonl", {})[0]
    assert [e.op for e in log][-3:] == ["remove", "forget", "undo"]


def test_a_stroke_is_of_the_frame_that_it_was_begun_on(tab, tmp_path):
    playing = "() => document.getElementById('play').getAttribute('aria-label') === 'Pause'"
    tab.press("e", " ")
    until(lambda: tab.page.evaluate(playing) and tab.inside()["frame"] > 0)
    tab.page.mouse.move(*tab.where(20, 20))
    tab.page.mouse.down()
    frame = tab.inside()["frame"]
    assert not tab.page.evaluate(playing)  # the video stands while something is drawn on it
    tab.page.mouse.move(*tab.where(50, 60), steps=5)
    tab.page.mouse.up()
    tab.shows(1)
    (log,) = read_log(tmp_path / "out/edits.jsonl", {})[0]
    assert (log.op, log.frame) == ("box", frame)
    # Another frame in the middle of it: forgotten.
    tab.page.mouse.move(*tab.where(20, 20))
    tab.page.mouse.down()
    tab.page.mouse.move(*tab.where(50, 60), steps=5)
    tab.press("ArrowLeft")
    tab.page.mouse.move(*tab.where(60, 70), steps=5)
    tab.page.mouse.up()
    tab.page.wait_for_timeout(300)
    assert tab.inside()["revision"] == 1
    assert tab.page.locator("#undo").get_attribute("data-tip") == f"Undo: box on frame {frame}"


def test_a_mark_in_the_embedding_shows_what_it_changes_and_one_button_removes_it(tab):
    tab.press("d")
    tab.click(40, 40)
    tab.shows(1)
    assert tab.inside()["mode"] == "masks" and not tab.page.locator("#remove").is_visible()
    tab.press("v")
    tab.click(40, 40)
    tab.page.locator("#remove").click()
    assert not tab.shows(2).any() and not tab.page.locator("#remove").is_visible()
    assert tab.page.locator("#undo").get_attribute("data-tip") == "Undo: removing a mark"


def test_a_map_that_is_refused_is_asked_for_again_in_a_while(tab):
    asked = []

    def refuse(route):
        asked.append(route.request.url)
        route.fulfill(status=500, body="{}")

    tab.page.route("**/margins*", refuse)
    tab.press("s")
    tab.page.wait_for_timeout(2500)
    assert 1 < len(asked) < 6
    tab.errors.clear()  # the browser tells of each


def test_how_sure_and_the_marks_are_of_one_state(tab):
    tab.click(40, 40)
    tab.click(90, 140, button="right")
    tab.shows(2)
    with tab.page.expect_response("**/margins*"):
        tab.press("s")
    tab.page.wait_for_timeout(500)
    before, held = tab.page.evaluate(PICTURE), []
    tab.page.route("**/margins*", lambda route: held.append(route))
    tab.click(20, 100)
    tab.shows(3)
    until(lambda: tab.page.wait_for_timeout(50) or held)
    assert tab.page.evaluate(PICTURE) == before  # the mark is there, what it changes is not
    for route in held:
        route.continue_()
    until(lambda: tab.page.evaluate(PICTURE) != before)


def test_whatever_can_be_pressed_says_what_it_is(tab):
    tab.click(40, 40)
    tab.shows(1)
    silent = """() => [...document.querySelectorAll("body > :not(dialog) :is(button, a, summary, input, [role=slider])")]
      .filter((e) => !e.closest("[data-tip], [hidden]")).map((e) => e.outerHTML)"""
    assert tab.page.evaluate(silent) == []
    # The keyboard's way to delete an object.
    assert "Shift-Delete" in tab.page.locator("#objects li[data-label='1']").inner_html()
    tab.press("Shift+Delete")
    assert not tab.shows(2).any() and not tab.inside()["objects"]


def test_the_keyboards_cursor_stays_in_view(tab):
    where = """async () => {
      const { canvas, place, pending } = { ...(await import(new URL("static/stage.js", location.href).href)),
        canvas: document.getElementById("canvas") };
      const [y, x] = pending.cursor;
      return [(place.top + y * place.scale) / canvas.clientHeight, (place.left + x * place.scale) / canvas.clientWidth];
    }"""
    tab.press("c", *["+"] * 8)
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        tab.press(*[key] * 20)
        assert all(0 < at < 1 for at in tab.page.evaluate(where)), key


def test_a_mask_is_dropped(tab, made):
    drop = """([data, name]) => {
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name, { type: "image/png" }));
      for (const kind of ["dragenter", "dragover", "drop"])
        document.getElementById("canvas").dispatchEvent(
          new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
    }"""
    import base64

    tab.page.evaluate(drop, [base64.b64encode(made.mask.read_bytes()).decode(), "first.png"])
    assert np.array_equal(tab.shows(1), made.truth[0])
    tab.press("ArrowRight")
    until(lambda: tab.inside()["frame"] == 1)
    labels = tab.shows(1)
    assert (labels == made.truth[1]).mean() > 0.8
    tab.page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    tab.page.wait_for_selector("#toast.bad")
    assert "found no PNG" in tab.page.locator("#toast").inner_text()
    tab.errors.clear()  # the refusal is told on the console too
    assert np.array_equal(tab.shows(1), labels)


def test_views_why_next_export(tab, made, tmp_path):
    tab.page.set_input_files("#file", str(made.mask))
    tab.shows(1)
    pictures = {tab.page.evaluate(PICTURE)}
    for key in "sd":
        tab.press(key)
        tab.page.wait_for_timeout(700)
        pictures.add(tab.page.evaluate(PICTURE))
    assert len(pictures) == 3
    tab.press("m", "i")
    tab.page.mouse.move(*tab.where(50, 50))
    tab.page.mouse.move(*tab.where(20, 20))
    tab.page.wait_for_selector("#because:not([hidden])")
    assert "frame 0" in tab.page.locator("#because").inner_text()
    address = tab.server.address
    sure = until(lambda: (s := sure_of(address)) and min(s) >= 0 and s)
    tab.page.wait_for_timeout(500)
    tab.page.locator("#next").click()
    assert tab.inside()["frame"] == min(range(1, 8), key=lambda i: (sure[i], i))
    for name in ("masks.zip", "overlay.mp4", "coco.json", "scribbles.json"):
        tab.page.locator("#export summary").click()
        with tab.page.expect_download() as download:
            tab.page.locator(f"a[href='export/{name}']").click()
        assert download.value.suggested_filename == f"frames-{name}"
        assert download.value.path().stat().st_size > 50


def sure_of(address):
    with httpx.stream("GET", address + "changes", timeout=30) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: ") and "sure" in (found := json.loads(line[6:])):
                return found["sure"]


def test_a_reload_in_the_middle_of_embedding(opened, made, tmp_path):
    go = threading.Event()

    class Held(Page):
        def opening(self, advance):
            def held():
                advance()
                go.wait(60)  # the first frame is there, the others wait for the test

            return Session(COLOR, self.frames, cache=self.cache, advance=held)

    held = Held(made.folder, tmp_path / "out", tmp_path / "cache", ready=False)
    try:
        page = opened.new_page()
        for _ in range(3):
            page.goto(f"http://127.0.0.1:{held.port}/{held.token}/")
            page.get_by_text("1 of 8 frames").wait_for()
            assert page.locator("#loading").is_visible()
            page.locator("#export summary").click()
            page.locator("a[href='export/masks.zip']").click()
            assert "still being read" in page.locator("#toast").inner_text()
        go.set()
        page.wait_for_selector("body[data-phase=ready]", timeout=120_000)
        assert not page.locator("#loading").is_visible()
        page.close()
    finally:
        go.set()
        held.close()


def test_two_tabs(tab):
    other = Tab(tab.page.context, tab.server)
    tab.click(40, 40)
    other.click(90, 140, button="right")
    labels = tab.shows(2)
    assert np.array_equal(other.shows(2), labels)
    other.press("ArrowRight")
    until(lambda: other.inside()["frame"] == 1)
    tab.press("Control+z")
    assert (other.shows(3) == 1).all() and (tab.shows(3) == 1).all()
    for _ in range(5):  # both at once: each input once, in one order
        tab.click(10, 10)
        other.click(80, 20)
    until(lambda: tab.inside()["revision"] == other.inside()["revision"] == 13)
    tab.press("ArrowRight")
    assert np.array_equal(tab.shows(13), other.shows(13)) and not other.errors


def test_a_selected_mark_is_that_mark(tab):
    """Its number is another's once it is gone: nothing is selected then, here or in another tab."""
    other = Tab(tab.page.context, tab.server)
    for i, (y, x) in enumerate(((20, 20), (40, 40), (60, 60)), 1):
        tab.click(y, x)
        tab.shows(i)
    tab.press("v")
    tab.click(60, 60)
    assert tab.page.locator("#remove").is_visible()
    other.shows(3)
    other.press("Control+z")
    other.click(80, 100)
    other.shows(5)
    tab.shows(5)
    assert not tab.page.locator("#remove").is_visible()
    tab.press("Delete")
    tab.click(80, 100)
    tab.press("Delete", "Delete", "Delete")
    tab.shows(6)
    assert len(tab.inside("state")["objects"]) == 1 and tab.inside()["selected"] is None
    other.page.close()


def test_keys_are_taken_in_order_before_they_are_answered(tab, tmp_path):
    tab.click(40, 40)
    tab.press("Control+z", "Control+Shift+z", "Control+z", "Control+Shift+z")
    assert (tab.shows(5) == 1).all()
    lines = [json.loads(line)["op"] for line in (tmp_path / "out/edits.jsonl").read_text().splitlines()[1:]]
    assert lines == ["click", "undo", "redo", "undo", "redo"]


def test_the_keyboard_alone(tab):
    tab.press("Tab")
    tab.press("c", "ArrowLeft", "ArrowLeft", "Enter")
    assert (tab.shows(1) == 1).all()
    tab.press(*["Shift+ArrowRight"] * 5, *["ArrowDown"] * 3, "Alt+Enter")
    labels = tab.shows(2)
    assert labels[47 + 24, 75 - 16 + 5] == 0 and labels[47, 75 - 16] == 1
    tab.press("Escape", "w", "c", "2", "Enter", "ArrowRight", "ArrowRight", "Enter", "Escape")
    tab.shows(3)
    tab.press("Control+z", "End", "Home", "ArrowRight")
    tab.shows(4)
    assert tab.inside()["frame"] == 1 and tab.inside()["tool"] == "scribble"
    tab.press("?")
    assert tab.page.locator("#keys").is_visible()
    tab.press("Escape")
    assert not tab.page.locator("#keys").is_visible()
    # Everything that can be pressed can be reached, and has a name.
    names, stops = set(), set()
    for _ in range(60):
        tab.press("Tab")
        stops.add(tab.page.evaluate("() => document.activeElement.id || document.activeElement.outerHTML.slice(0, 60)"))
    assert {"canvas", "track", "next", "play", "add", "undo", "why", "opacity", "width"} <= stops
    for element in tab.page.locator("button, input:not([hidden]), summary, [role=slider]").all():
        if element.is_visible():
            name = element.get_attribute("aria-label") or element.inner_text().strip()
            assert name, element.evaluate("e => e.outerHTML")
            names.add(name)
    assert len(names) > 20


@pytest.mark.parametrize("size", [(1280, 720), (390, 844)])
def test_sizes_of_the_window(tab, size):
    width, height = size
    tab.page.set_viewport_size({"width": width, "height": height})
    tab.page.wait_for_timeout(300)
    assert tab.page.evaluate("() => document.documentElement.scrollWidth") <= width
    boxes = {
        name: tab.page.locator(name).bounding_box()
        for name in ("#stage", "aside", "#tools", "header", "footer", "#next")
    }
    for name, box in boxes.items():
        assert box["x"] >= 0 and box["x"] + box["width"] <= width + 0.5, name
        assert box["y"] >= 0 and box["y"] + box["height"] <= height + 0.5, name
    areas = {name: box["width"] * box["height"] for name, box in boxes.items()}
    assert areas["#stage"] > 0.55 * width * height and max(areas, key=areas.__getitem__) == "#stage"

    def tools_fit():
        for button in tab.page.locator("#tools button:visible").all():
            box = button.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width + 0.5

    tools_fit()
    tab.click(40, 40)
    assert (tab.shows(1) == 1).all()
    tab.press("v")
    tab.click(40, 40)
    tab.page.locator("#remove").wait_for()
    tools_fit()


def test_a_finger(opened, made, tmp_path, cache):
    with served(made.folder, "--model", "color", "--out", tmp_path / "out", cache=cache) as server:
        context = opened.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
        tab = Tab(context, server)
        buttons = tab.page.locator("#tools button, .transport button, .segmented button, summary, #next").all()
        heights = [b.bounding_box()["height"] for b in buttons if b.is_visible()]
        assert len(heights) > 15 and min(heights) >= 44, heights  # what a finger can hit
        assert tab.page.locator("#stage").bounding_box()["height"] > 0.55 * 844
        tab.page.touchscreen.tap(*tab.where(40, 40))
        assert (tab.shows(1) == 1).all()
        tab.page.locator("#objects li[data-label='0'] button").first.tap()
        tab.page.touchscreen.tap(*tab.where(90, 140))
        labels = tab.shows(2)
        assert labels[90, 140] == 0 and labels[40, 40] == 1
        # Three fingers move nothing and say nothing.
        device = context.new_cdp_session(tab.page)
        fingers = [dict(zip("xy", tab.where(30, 20 + 30 * i), strict=True), id=i) for i in range(3)]
        for i in range(3):
            device.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": fingers[: i + 1]})
        for i in range(3):
            device.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": fingers[i + 1 :]})
        tab.page.wait_for_timeout(300)
        assert tab.inside()["revision"] == 2
        context.close()
        assert not tab.errors


def test_the_page_asks_nobody_else(opened, made, tmp_path, cache):
    with served(made.folder, "--model", "color", "--out", tmp_path / "out", cache=cache) as server:
        page, asked = opened.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.address)
        page.wait_for_selector("body[data-phase=ready]")
        page.wait_for_timeout(500)
        page.close()
        assert len(asked) > 10 and all(url.startswith((server.address, "blob:", "data:")) for url in asked)


def test_what_is_shown_is_of_one_state(tab):
    """While inputs come quickly and the frame changes, every packet equals the state that it names."""
    seen = {}
    tab.page.expose_function("seen", lambda frame, revision, labels: seen.setdefault((frame, revision), labels))
    watch = """async () => {
      const at = (name) => import(new URL(`static/${name}.js`, location.href).href);
      const { store, packetOf } = await at("store");
      document.addEventListener("shown", (e) => {
        const p = packetOf(store.frame);
        window.seen(e.detail.frame, p.revision, [...new Uint8Array(p.body)]);
      });
    }"""
    tab.page.evaluate(watch)
    rng, states = np.random.default_rng(0), {0: {}}
    for i in range(12):
        y, x = int(rng.integers(5, 90)), int(rng.integers(5, 145))
        tab.click(y, x, button="right" if i % 2 else "left")
        tab.page.wait_for_timeout(int(rng.integers(0, 120)))
        if i % 3 == 0:
            tab.press("ArrowRight")
    until(lambda: tab.inside()["revision"] == 12)
    tab.page.wait_for_timeout(500)
    # The log tells what each state was.
    while tab.inside()["revision"] < 24:
        revision = tab.inside()["revision"]
        undone = 24 - revision
        found = packets(httpx.get(tab.server.address + "frames?frames=0,1,2,3,4,5,6,7").content)
        states[undone] = {about["frame"]: bytes(body) for about, body in found}
        httpx.post(tab.server.address + "edit?view=0", content='{"op": "undo"}')
        until(lambda: tab.inside()["revision"] == revision + 1)  # noqa: B023
    checked = 0
    for (frame, revision), body in seen.items():
        if 0 < revision <= 12:
            assert np.array_equal(labels_of(bytes(body), SIZE), labels_of(states[revision][frame], SIZE))
            checked += 1
    assert checked >= 4


def test_the_mark_that_was_meant_is_removed_while_an_input_is_under_way(tab, tmp_path):
    for y, x in ((20, 20), (60, 60), (80, 120)):
        tab.click(y, x)
    tab.shows(3)
    tab.page.route("**/edit?*", lambda route: (tab.page.wait_for_timeout(700), route.continue_()))
    tab.click(10, 140)
    marks = tab.page.locator("#marks li")
    marks.nth(0).locator("button.icon").dispatch_event("click")
    marks.nth(1).locator("button.icon").dispatch_event("click")
    marks.nth(2).locator("button.name").click()  # chosen, and not removed
    until(lambda: tab.inside()["revision"] == 6)
    tab.press("ArrowRight", "ArrowLeft")
    until(lambda: marks.count() == 2)
    clicks = [(e.points[0]) for e in read_log(tmp_path / "out/edits.jsonl", {})[0] if e.op == "click"]
    removed = [e.target for e in read_log(tmp_path / "out/edits.jsonl", {})[0] if e.op == "remove"]
    assert removed == [0, 1] and len(clicks) == 4
