"""Readers and writers: folders, videos of every container, data sets, overlays, and writes that are whole or not there."""

import io
import json
import os
import re
import struct
import warnings
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from pmljax import demo, files
from pmljax.data import davis, synthetic, youtube_vos
from pmljax.data.images import frame_number, image_size, list_images, natural_key, read_image
from pmljax.data.overlay import ContactSheet, paint
from pmljax.data.sources import open_frames
from pmljax.data.video import VideoWriter, _missing
from pmljax.errors import DamageWarning, InputError
from pmljax.labels import palette


def write_video(path, frames, codec="libx264", pix_fmt="yuv420p", rate=10, container=None, stream=None):
    """container, stream: options of the two."""
    import av

    options = stream or {}
    with av.open(str(path), "w", options=container or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def clip():
    """Six frames of 48×64 whose left half brightens and whose right half is red."""
    frames = np.zeros((6, 48, 64, 3), np.uint8)
    frames[:, :, :32] = 40 * np.arange(1, 7)[:, None, None, None]
    frames[:, :, 32:, 0] = 200
    return frames


# Folders


def test_folder_in_natural_order(tmp_path, clip):
    for name, image in zip(["f10.png", "f2.png", "f1.jpg", ".hidden.png"], clip, strict=False):
        Image.fromarray(image).save(tmp_path / name, quality=95)
    (tmp_path / "notes.txt").write_text("not a picture")
    frames = open_frames(tmp_path)
    assert frames.size == (48, 64) and frames.count == 3
    stamped = list(frames.stamped())
    assert [(s.name, s.number) for s in stamped] == [("f1", 1), ("f2", 2), ("f10", 10)]
    assert np.array_equal(stamped[1].image, clip[1]) and np.array_equal(stamped[2].image, clip[0])
    assert frames.position("f10") == 2 and frames.position("f3") is None
    assert len(list(frames)) == 3 == len(list(frames))  # a stream may be read again


def test_natural_key_and_numbers():
    assert sorted(["b2", "a10", "a9", "A1"], key=natural_key) == ["A1", "a9", "a10", "b2"]
    assert frame_number("00042", 3) == 42 and frame_number("take2_frame007", 0) == 7 and frame_number("x", 3) == 3


def test_start_end_every(tmp_path, clip):
    for i, image in enumerate(clip):
        Image.fromarray(image).save(tmp_path / f"{i:05d}.png")
    video = write_video(tmp_path.parent / "slice.mp4", clip)
    for source in (tmp_path, video):
        frames = open_frames(source, start=1, end=6, every=2)
        assert [s.name for s in frames.stamped()] == ["00001", "00003", "00005"] and frames.count == 3
        assert [frames.position(f"{i:05d}") for i in range(6)] == [None, 0, None, 1, None, 2]
        assert frames.digest() != open_frames(source).digest() == open_frames(source).digest()
        with pytest.raises(InputError, match="no frames left"):
            open_frames(source, start=6)
        for bad in ({"start": -1}, {"every": 0}, {"start": 3, "end": 3}):
            with pytest.raises(InputError, match="expected 0 ≤ start"):
                open_frames(source, **bad)


def test_orientation_and_modes(tmp_path, clip):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(clip[0]).save(tmp_path / "0.jpg", exif=exif, quality=100)
    frames = open_frames(tmp_path)
    image = next(iter(frames))
    assert frames.size == (64, 48) == image.shape[:2]
    assert abs(int(image[40, 10, 0]) - 200) < 9  # the red right half lies below now
    (tmp_path / "0.jpg").unlink()
    grey = Image.fromarray(clip[0][..., 0])
    grey.save(tmp_path / "0.png")
    grey.convert("LA").save(tmp_path / "1.png")
    Image.fromarray(clip[0]).convert("RGBA").save(tmp_path / "2.png")
    assert all(f.shape == (48, 64, 3) and f.dtype == np.uint8 for f in open_frames(tmp_path))


def test_folders_that_are_refused(tmp_path, clip):
    def refused(word, path=tmp_path):
        with pytest.raises(InputError, match=word) as caught:
            list(open_frames(path))
        assert "\n" not in str(caught.value)

    refused("no pictures")
    refused("no such file or folder", tmp_path / "absent")
    for i, image in enumerate(clip):
        Image.fromarray(image).save(tmp_path / f"{i}.jpg")
    Image.fromarray(clip[0][:40]).save(tmp_path / "3.jpg")
    refused(r"3\.jpg: found 64×40, the first frame is 64×48")
    whole = (tmp_path / "2.jpg").read_bytes()
    (tmp_path / "3.jpg").write_bytes(whole[: len(whole) - 60])
    refused(r"3\.jpg: broken or truncated picture")
    (tmp_path / "3.jpg").write_bytes(b"no picture at all")
    refused(r"3\.jpg: found no readable picture")
    (tmp_path / "3.jpg").unlink()
    Image.fromarray(clip[0][..., 0].astype(np.uint16) * 256).save(tmp_path / "9.png")
    refused("16 bits")
    (tmp_path / "9.png").unlink()
    Image.fromarray(clip[0]).save(tmp_path / "5.png")
    refused("two pictures named 5")


# Videos


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
    ],
)
def test_videos_of_every_kind(tmp_path, clip, name, codec, pix_fmt):
    frames = open_frames(write_video(tmp_path / name, clip, codec, pix_fmt))
    stamped = list(frames.stamped())
    assert frames.count == frames.total == 6
    assert frames.size == (48, 64) and [s.name for s in stamped] == [f"{i:05d}" for i in range(6)]
    assert [s.number for s in stamped] == list(range(6))
    assert np.allclose([s.seconds for s in stamped], np.arange(6) / 10, atol=1e-2)
    assert np.abs(np.stack([s.image for s in stamped]).astype(int) - clip).mean() < 12  # 4:2:0 and compression


@pytest.mark.parametrize("name", ["o.mp4", "o.gif"])
@pytest.mark.parametrize("size", [(48, 64), (47, 61)])
def test_writer_keeps_frames_and_timestamps(tmp_path, clip, name, size):
    times = [0.0, 0.1, 0.25, 0.3, 0.31, 1.0]  # no constant rate
    images = clip[:, : size[0], : size[1]]
    with VideoWriter(tmp_path / name) as video:
        for image, t in zip(images, times, strict=True):
            video.write(image, t)
        assert not (tmp_path / name).exists()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    stamped = list(open_frames(tmp_path / name).stamped())
    assert np.allclose([s.seconds for s in stamped], times, atol=0.011)
    found = np.stack([s.image for s in stamped])[:, : size[0], : size[1]]
    assert found.shape == images.shape and np.abs(found.astype(int) - images).mean() < 12


def test_a_gif_shows_its_last_frame_as_long_as_the_one_before(tmp_path, clip):
    with VideoWriter(tmp_path / "o.gif") as video:
        for i, image in enumerate(clip[:4]):
            video.write(image, 0.2 * i)
    with Image.open(tmp_path / "o.gif") as gif:
        shown = [gif.seek(i) or gif.info["duration"] for i in range(gif.n_frames)]
    assert shown == [200] * 4  # milliseconds


@pytest.mark.slow  # thirty videos
def test_the_same_frames_make_the_same_video(tmp_path):
    """The demo's clip has to, since its scores are compared. x264 as it comes writes other files of these
    frames now and then: without its two options this fails in about every second run."""
    frames = np.asarray(synthetic.clip(jax.random.key(0), frames=demo.FRAMES, size=demo.SIZE, objects=2).frames)
    found = set()
    for _ in range(30):
        with VideoWriter(tmp_path / "o.mp4", threads=1) as video:
            for i, frame in enumerate(frames):
                video.write(frame, i / 10)
        found.add((tmp_path / "o.mp4").read_bytes())
    assert len(found) == 1


def test_a_writer_that_fails_leaves_nothing(tmp_path, clip):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "o.mp4") as video:
        video.write(clip[0], 0.0)
        raise RuntimeError
    with VideoWriter(tmp_path / "none.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_rotation_of_a_phone_video(tmp_path, clip):
    """The track's display matrix, as phones write it: a quarter turn clockwise."""
    path = write_video(tmp_path / "r.mp4", clip)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version 0: the matrix stands 40 bytes after the box's name
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames = open_frames(path)
    image = next(iter(frames))
    assert frames.size == (64, 48) and abs(int(image[48, 24, 0]) - 200) < 12 and image[48, 24, 1] < 30
    assert np.abs(image.astype(int) - np.rot90(clip[0], -1)).mean() < 12


@pytest.mark.parametrize("x", [(1, 0), (-1, 0), (0, 1), (0, -1)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_every_display_matrix(tmp_path, clip, x, mirrored):
    """Turned and mirrored, pixel by pixel from what the matrix means: (x, y) is shown at x·(a, b) + y·(c, d)."""
    (a, b), sign = x, -1 if mirrored else 1
    c, d = -b * sign, a * sign
    path = write_video(tmp_path / "r.mp4", clip)
    straight = next(iter(open_frames(path)))
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[place : place + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    h, w = straight.shape[:2]
    rows, columns = np.mgrid[:h, :w]
    right, down = columns * a + rows * c, columns * b + rows * d
    shown = np.zeros((np.ptp(down) + 1, np.ptp(right) + 1, 3), np.uint8)
    shown[down - down.min(), right - right.min()] = straight
    frames = open_frames(path)
    assert frames.size == shown.shape[:2] and np.array_equal(next(iter(frames)), shown)


def jpegs(container, images, **given):
    """A stream of pictures as cameras write them, with EXIF; given: what is set on the stream."""
    import av

    h, w = images[0].shape[:2]
    stream = container.add_stream("mjpeg", rate=10)
    stream.height, stream.width, stream.pix_fmt = h, w, "yuvj444p"
    for name, value in given.items():
        setattr(stream, name, value)
    for i, image in enumerate(images):
        picture, data = Image.fromarray(image), io.BytesIO()
        exif = picture.getexif()
        exif[0x010F], exif[0x0112] = "a camera", 6  # its maker; to be turned clockwise
        picture.save(data, "JPEG", exif=exif, quality=95, subsampling=0)
        packet = av.Packet(data.getvalue())
        packet.pts = packet.dts = i
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 10), stream, True
        yield packet


def test_a_video_of_jpegs_with_exif(tmp_path, clip):
    """Beside the turn lies what PyAV has no name for."""
    import av

    with av.open(str(tmp_path / "j.avi"), "w") as container:
        for packet in jpegs(container, clip):
            container.mux(packet)
    frames = open_frames(tmp_path / "j.avi")
    found = np.stack(list(frames)).astype(int)
    assert frames.size == (64, 48) and np.abs(found - np.rot90(clip, -1, (1, 2))).mean() < 3


def test_of_two_streams_the_video_is_taken(tmp_path, clip):
    """Not the first, where that is a cover or the smaller one; a cover alone is no video."""
    import av
    from av.stream import Disposition

    write_video(tmp_path / "v.mp4", clip)
    for name, given in (("two.mkv", {}), ("cover.mp4", {"disposition": Disposition.attached_pic})):
        with av.open(str(tmp_path / name), "w") as container, av.open(str(tmp_path / "v.mp4")) as source:
            pictures = list(jpegs(container, clip[:1, :24, :32], **given))
            stream = container.add_stream_from_template(source.streams.video[0])
            for packet in pictures:
                container.mux(packet)
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = stream
                    container.mux(packet)
        frames = open_frames(tmp_path / name)
        assert frames.size == (48, 64) and len(list(frames)) == 6
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        for packet in list(jpegs(container, clip[:1], disposition=Disposition.attached_pic)):
            container.mux(packet)
    with pytest.raises(InputError, match=r"song\.mp4: found no"):
        open_frames(tmp_path / "song.mp4")


@pytest.mark.parametrize("options", [{"movflags": "frag_keyframe"}, {"movflags": "frag_keyframe+empty_moov"}])
def test_a_fragmented_video_has_all_its_frames(tmp_path, clip, options):
    """Its header counts those of the first fragment, or none."""
    write_video(tmp_path / "f.mp4", clip, container=options, stream={"g": "2"})
    assert open_frames(tmp_path / "f.mp4").total == 6 and open_frames(tmp_path / "f.mp4", start=3).count == 3


def test_a_trimmed_video_has_no_more_frames_than_are_shown(tmp_path, clip):
    """Cut without encoding anew: the frames before the first one shown are there, for those that follow."""
    import av

    write_video(tmp_path / "v.mp4", np.concatenate([clip] * 3), stream={"g": "6"})
    with av.open(str(tmp_path / "v.mp4")) as source, av.open(str(tmp_path / "t.mp4"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        begin = None
        for packet in source.demux(video=0):
            if packet.dts is not None:
                begin = int(0.4 / packet.time_base) if begin is None else begin
                packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, stream
                container.mux(packet)
    with av.open(str(tmp_path / "t.mp4")) as container:
        assert container.streams.video[0].frames == 18
    frames = open_frames(tmp_path / "t.mp4")
    assert frames.total == len(list(frames)) == 14


def test_a_written_video_says_its_colours(tmp_path):
    """Players take high frames for BT.709 where nothing says otherwise."""
    import av

    image = np.full((720, 16, 3), (220, 30, 30), np.uint8)
    with VideoWriter(tmp_path / "o.mp4") as video:
        video.write(image, 0.0)
    with av.open(str(tmp_path / "o.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (6, 1)
    assert np.abs(next(iter(open_frames(tmp_path / "o.mp4"))).astype(int) - image).max() < 4


def test_what_is_appended_to_a_video_is_no_cut(tmp_path, clip):
    path = write_video(tmp_path / "t.mp4", clip)
    path.write_bytes(path.read_bytes() + b"SOMETRAILERBYTES" * 4)
    assert len(list(open_frames(path))) == len(clip)
    path.write_bytes(path.read_bytes()[:-64] + b"\x00\x01\x00\x00free")
    with pytest.raises(InputError, match="cut off"):
        list(open_frames(path))


def test_the_order_of_names_that_differ_in_zeros_alone(tmp_path):
    for name in ("f01.png", "f1.png", "F1.png", "f001.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    assert [p.name for p in list_images(tmp_path)] == ["F1.png", "f001.png", "f01.png", "f1.png"]


def test_a_picture_turned_by_xmp(tmp_path):
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", xmp=xmp)
    assert image_size(tmp_path / "a.jpg") == (30, 20) == read_image(tmp_path / "a.jpg").shape[:2]


def test_a_folder_with_a_name_that_is_no_text(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    assert len(open_frames(tmp_path).digest()) == 64


def test_videos_that_are_refused(tmp_path, clip):
    (tmp_path / "text.mp4").write_text("hello\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for name, word in [
        ("text.mp4", "no readable video"),
        ("empty.mp4", "no readable video"),
        ("sound.mp4", "no video stream"),
    ]:
        with pytest.raises(InputError, match=f"{name}: found {word}"):
            open_frames(tmp_path / name)


def test_a_video_that_was_cut_off_says_so_at_its_end(tmp_path, clip):
    import av

    path = tmp_path / "whole.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "1", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert len(list(open_frames(path))) == 12
    data = path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    seen = []
    with pytest.raises(InputError, match=r"cut\.mp4: .*(cut off|cannot be decoded)"):
        for frame in open_frames(tmp_path / "cut.mp4"):
            seen.append(frame)
    assert 2 <= len(seen) < 12
    assert len(list(open_frames(tmp_path / "cut.mp4", end=2))) == 2  # what is asked for is there


@pytest.mark.filterwarnings("ignore::pmljax.errors.DamageWarning")  # the frame at the cut, by some decoders
@pytest.mark.parametrize(("name", "codec"), [("t.avi", "mpeg4"), ("t.mkv", "libx264"), ("t.webm", "libvpx")])
def test_other_containers_that_were_cut_off(name, codec, tmp_path, rng):
    path = write_video(tmp_path / name, rng.integers(0, 256, (24, 48, 64, 3), np.uint8), codec)
    whole = path.read_bytes()
    assert len(list(open_frames(path))) == 24
    path.write_bytes(whole + b"trailer" * 9)
    assert len(list(open_frames(path))) == 24
    path.write_bytes(whole[: len(whole) * 6 // 10])
    seen = []
    with pytest.raises(InputError, match=rf"{name}: .*(cut off|cannot be decoded)"):
        for frame in open_frames(path):
            seen.append(frame)
    assert 1 <= len(seen) < 24


def test_an_avi_that_lost_frames_says_so(tmp_path, rng):
    """Chunks whose heads are unreadable are passed over, and what follows is counted on; frames that were skipped as it was
    written are not lost."""
    import av

    path = write_video(tmp_path / "t.avi", rng.integers(0, 256, (12, 48, 64, 3), np.uint8), "mjpeg", "yuvj420p")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(open_frames(path))) == 12
    data = bytearray(path.read_bytes())
    heads = [m.start() for m in re.finditer(b"00dc", data[: data.rindex(b"idx1")]) if m.start() > data.index(b"movi")]
    assert len(heads) == 12
    data[heads[4] : heads[4] + 20] = data[heads[5] : heads[5] + 20] = bytes(20)
    path.write_bytes(data)
    with pytest.warns(DamageWarning, match=r"t\.avi: its header says 2 frames more than were found"):
        frames = open_frames(path)
    assert frames.count == 10 == len(list(frames))
    for ticks in [(0, 1, 4, 5), (0, 2, 4, 6), (0, 3, 6, 9, 18)]:  # with two and three ticks a frame
        with av.open(str(tmp_path / "skips.avi"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for i in ticks:
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * i, np.uint8), format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(list(open_frames(tmp_path / "skips.avi"))) == len(ticks)
    # As B-frames are written with 60 ticks a frame: the last two in disorder, and side by side.
    assert not _missing([*range(0, 1380, 60), 1381, 1380], 1440)


@pytest.mark.parametrize("name", ["t.gif", "t.apng", "p.gif", "p.png"])
def test_pictures_that_move_and_were_cut_off(name, tmp_path, rng):
    """t: FFmpeg's own; p: Pillow's, of which the gif has tables of colours for each picture."""
    path, images = tmp_path / name, rng.integers(0, 256, (12, 48, 64, 3), np.uint8)
    if name[0] == "t":
        write_video(path, images, *(("gif", "rgb8") if name.endswith("gif") else ("apng", "rgb24")))
    else:
        first, *others = map(Image.fromarray, images)
        first.save(path, save_all=True, append_images=others, duration=100, comment=b"of noise")
    whole = path.read_bytes()
    assert len(list(open_frames(path))) == 12
    path.write_bytes(whole + b"trailer" * 20_000)
    assert len(list(open_frames(path))) == 12
    for part in (0.35, 0.6, 0.999):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(InputError, match=rf"{name}: .*(cut off|cannot be decoded)"):
            list(open_frames(path))


def test_an_avi_whose_writer_could_not_come_back_is_whole(tmp_path, clip):
    path = write_video(tmp_path / "t.avi", clip, "mpeg4")
    whole = path.read_bytes()
    for length in (0, 0xFFFFFFFF, len(whole)):
        path.write_bytes(whole[:4] + length.to_bytes(4, "little") + whole[8:])
        assert len(list(open_frames(path))) == len(clip)


def test_names_that_look_like_protocols_and_numbers_beyond_all(tmp_path, clip, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "10:20:30.mp4", clip)
    assert len(list(open_frames("10:20:30.mp4"))) == len(clip)
    Path("run:1").mkdir()
    with VideoWriter(Path("run:1/overlay.mp4")) as video:
        video.write(clip[0], 0.0)
    assert len(list(open_frames("run:1/overlay.mp4", end=10**20))) == 1
    with pytest.raises(InputError, match="no frames left"):
        open_frames("run:1/overlay.mp4", start=10**20)


def test_frames_that_an_encoder_refuses(tmp_path):
    with (
        pytest.raises(InputError, match=r"wide\.mp4: frames of 20000×2 cannot be encoded"),
        VideoWriter(tmp_path / "wide.mp4") as video,
    ):
        video.write(np.zeros((2, 20000, 3), np.uint8), 0.0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="No such file"), VideoWriter(tmp_path / "nowhere/x.gif") as video:
        video.write(np.zeros((20, 20, 3), np.uint8), 0.0)


# Data sets


def made_davis(root: Path, year: str = "2017") -> Path:
    for name, n in (("a", 4), ("b", 3)):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "480p" / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(np.full((20, 30, 3), 9, np.uint8)).save(root / f"JPEGImages/480p/{name}/{i:05d}.jpg")
            mask = Image.fromarray(np.eye(20, 30, dtype=np.uint8), "P")
            mask.putpalette(palette().tobytes())
            mask.save(root / f"Annotations/480p/{name}/{i:05d}.png")
    (root / "ImageSets" / year).mkdir(parents=True)
    (root / "ImageSets" / year / "val.txt").write_text("a\nb\n")
    return root


def test_davis_splits(tmp_path):
    root = made_davis(tmp_path)
    assert davis.find_split(root, "val") == (2017, ["a", "b"])
    (root / "ImageSets/2016").mkdir()
    (root / "ImageSets/2016/val.txt").write_text("a\n")
    (root / "ImageSets/2016/dev.txt").write_text("b\n\n")
    assert davis.find_split(root, "val") == (2017, ["a", "b"]) and davis.find_split(root, "val", 2016) == (2016, ["a"])
    assert davis.find_split(root, "dev") == (2016, ["b"])
    (root / "ImageSets/480p").mkdir()
    pairs = [f"/JPEGImages/480p/{s}/0000{i}.jpg /Annotations/480p/{s}/0000{i}.png" for s in "ba" for i in range(2)]
    (root / "ImageSets/480p/old.txt").write_text("\n".join(pairs))
    assert davis.find_split(root, "old") == (2016, ["b", "a"])
    (root / "ImageSets/480p/bad.txt").write_text("no pairs\n")
    with pytest.raises(InputError, match=r"bad\.txt: expected lines of two paths"):
        davis.find_split(root, "bad")
    assert davis.find_split(root, "val", 2017, ["b"]) == (2017, ["b"])
    with pytest.raises(InputError, match="--sequences c: not in the split val; expected of a, b"):
        davis.find_split(root, "val", 2017, ["b", "c"])
    for args, word in [(("nope",), "no such split; expected one of.*2016/dev.txt"), (("val", 2019), "--year 2019")]:
        with pytest.raises(InputError, match=word):
            davis.find_split(root, *args)
    with pytest.raises(InputError, match="no such folder"):
        davis.find_split(root / "x", "val")


def test_davis_sequences(tmp_path):
    root = made_davis(tmp_path)
    sequence = davis.open_sequence(root, "a")
    assert list(sequence.annotations) == [f"{i:05d}" for i in range(4)] and sequence.frames().count == 4
    with pytest.raises(InputError, match=r"zz: no such folder; expected the annotation"):
        davis.open_sequence(root, "zz")
    assert [name for name, _ in sequence.counted()] == ["00001", "00002"]
    (root / "Annotations/480p/a/00003.png").rename(root / "Annotations/480p/a/00003.PNG")
    assert list(davis.open_sequence(root, "a").annotations) == list(sequence.annotations)
    for name in ("../480p/a", str(root / "JPEGImages/480p/a")):  # results would be written where they point to
        (root / "ImageSets/2017/odd.txt").write_text(f"a\n{name}\n")
        with pytest.raises(InputError, match=r"odd\.txt: found .*expected names of sequences"):
            davis.find_split(root, "odd", 2017)
    (root / "Annotations/480p/a/00000.png").unlink()
    with pytest.raises(InputError, match=r"00000\.png: no such file; expected the annotation of every frame"):
        davis.open_sequence(root, "a").counted()
    for path in (root / "Annotations/480p/b").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="b: found no annotation"):
        davis.open_sequence(root, "b")


def test_youtube_vos(tmp_path):
    root = tmp_path / "valid"
    for i in (0, 5, 10):
        (root / "JPEGImages/v1").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / f"JPEGImages/v1/{i:05d}.jpg")
    (root / "Annotations/v1").mkdir(parents=True)
    for i in (0, 10):  # an object that appears in the third frame
        Image.fromarray(np.ones((20, 30), np.uint8)).save(root / f"Annotations/v1/{i:05d}.png")
    assert youtube_vos.list_videos(root) == ["v1"]
    video = youtube_vos.open_video(root, "v1")
    assert [p.stem for p in video.files] == ["00000", "00005", "00010"] and list(video.annotations) == [
        "00000",
        "00010",
    ]
    assert [s.number for s in video.frames().stamped()] == [0, 5, 10]
    (root / "meta.json").write_text(json.dumps({"videos": {"v9": {}, "v1": {}}}))
    assert youtube_vos.list_videos(root) == ["v1", "v9"]
    with pytest.raises(InputError, match="v9: no such folder"):
        youtube_vos.open_video(root, "v9")
    for text in ("[]", '{"videos": ["v1", "v9"]}'):
        (root / "meta.json").write_text(text)
        with pytest.raises(InputError, match=r"meta\.json: expected JSON"):
            youtube_vos.list_videos(root)


# Pictures of results


def test_paint():
    frame = np.full((20, 20, 3), 100, np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15] = 2
    out = paint(frame, labels)
    assert (out[labels == 0] == 100).all() and out[10, 10].tolist() == [50, 114, 50]
    assert all((out[p] == out[5, 5]).all() for p in ((5, 10), (14, 10), (10, 5), (10, 14)))
    assert out[5, 5].tolist() == [96, 224, 96]


def painted(frame, labels):
    """Pixel by pixel."""
    out = frame.copy()
    for y, x in np.argwhere(labels > 0):
        colour = palette()[labels[y, x]].astype(int)
        beside = [(y + a, x + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        edge = any(
            labels[p] != labels[y, x] for p in beside if min(p) >= 0 and p[0] < len(labels) and p[1] < len(labels[0])
        )
        out[y, x] = np.minimum(colour + 96, 255) if edge else frame[y, x] // 2 + colour // 2
    return out


def test_every_pixel_is_painted_alike(rng):
    for size in [(1, 1), (1, 9), (17, 23), (24, 10)] * 8:
        frame, labels = rng.integers(0, 256, (*size, 3)).astype(np.uint8), np.zeros(size, np.uint8)
        for _ in range(rng.integers(4)):  # overlapping boxes, at the border too, or none
            y, x = (rng.integers(n) for n in size)
            labels[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = rng.integers(256)
        before = frame.copy()
        assert np.array_equal(paint(frame, labels), painted(frame, labels)) and np.array_equal(frame, before)


@pytest.mark.parametrize("n", [1, 5, 12, 40, 700])
def test_contact_sheet_is_even_for_any_length(n):
    sheet = ContactSheet()
    for i in range(n):
        sheet.add(str(i), np.full((40, 60, 3), i % 250, np.uint8))
    assert len(sheet.held) <= 96
    picture = sheet.jpeg()
    assert picture[:2] == b"\xff\xd8"
    kept = [int(name) for name, _ in sheet.held]
    assert kept[0] == 0 and len(set(np.diff(kept))) <= 1 and kept[-1] >= n * 0.9 - 1


# Writes


def test_writes_are_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    files.write_file(path, b"one")
    assert path.read_bytes() == b"one"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_file(path, b"two")
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]
