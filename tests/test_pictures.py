"""What a picture's file says of itself: which way up it is, how many pictures it holds, how deep they are."""

import base64
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

import pmljax
from pmljax.data.images import image_size, read_image
from pmljax.data.sources import open_frames
from pmljax.errors import InputError
from pmljax.inputs import read_edits
from pmljax.labels import encode_labels, has_ids, read_labels

RED = np.zeros((20, 30, 3), np.uint8)
RED[4:9, 6:20, 0] = 250


def exif(*entries):
    """An EXIF of entries (tag, type, count, four bytes)."""
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + b"\0" * 4


def orientation(i):
    return exif((0x0112, 3, 1, struct.pack("<HH", i, 0)))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
def test_all_ways_up(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for i in range(10):  # 0 and 9 are none
        options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
        Image.fromarray(RED).save(path, exif=orientation(i), **options)
        with Image.open(path) as image:
            expected = np.array(ImageOps.exif_transpose(image))
        found = read_image(path)
        assert image_size(path) == found.shape[:2] == ((30, 20) if 5 <= i <= 8 else (20, 30))
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "entries",
    [
        [(0x0112, 2, 2, b"6\0\0\0")],  # as a text
        [(0x0112, 7, 1, b"\6\0\0\0")],  # as bytes
        [(0x0112, 5, 1, b"\x08\0\0\0")],  # as a fraction
        [(0x0112, 3, 0, b"\0\0\0\0")],  # as nothing
    ],
)
def test_an_orientation_that_is_none(tmp_path, entries):
    for name in ("a.jpg", "a.png", "a.webp"):
        Image.fromarray(RED).save(tmp_path / name, exif=exif(*entries))
        assert image_size(tmp_path / name) == (20, 30) == read_image(tmp_path / name).shape[:2]


def test_a_turn_beside_what_cannot_be_written_again(tmp_path):
    width = (0x0100, 2, 4, b"160\0")  # as a text
    Image.fromarray(RED).save(tmp_path / "a.jpg", exif=exif(width, (0x0112, 3, 1, b"\6\0\0\0")))
    assert image_size(tmp_path / "a.jpg") == (30, 20) == read_image(tmp_path / "a.jpg").shape[:2]


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGB", "RGBA"])
def test_a_mask_is_turned_as_its_frame_is(tmp_path, mode):
    labels = (RED[..., 0] > 0).astype(np.uint8)
    image = Image.open(io.BytesIO(encode_labels(labels))) if mode == "P" else Image.fromarray(255 * labels)
    image = image if mode == "P" else image.convert(mode)
    image.save(tmp_path / "m.png", exif=orientation(6))
    Image.fromarray(RED).save(tmp_path / "f.png", exif=orientation(6))
    assert np.array_equal(
        read_labels(tmp_path / "m.png"), (read_image(tmp_path / "f.png")[..., 0] > 0).astype(np.uint8)
    )


@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.png"])
def test_several_pictures_in_one_file_are_no_frame(tmp_path, name):
    pictures = [Image.fromarray(np.roll(RED, i, 1)) for i in range(3)]
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
    for read in (open_frames, lambda folder: read_labels(folder / name)):
        with pytest.raises(InputError, match=rf"{name}: found 3 pictures in one file, expected one"):
            read(tmp_path)
    if name == "a.png":  # a video, as a gif
        assert len(list(open_frames(tmp_path / name))) == 3
        return
    with pytest.raises(InputError, match=rf"{name}: found 3 pictures in one file, expected one"):
        open_frames(tmp_path / name)


def test_pictures_that_are_not_read_are_missed(tmp_path):
    for name in ("0.jfif", "1.jpg", "2.jpe"):
        Image.fromarray(RED).save(tmp_path / name, "JPEG")
    (tmp_path / "notes.txt").write_text("of no importance")
    (tmp_path / ".3.heic").write_bytes(b"hidden")
    assert open_frames(tmp_path).count == 3
    (tmp_path / "3.HEIC").write_bytes(b"from a phone")
    with pytest.raises(
        InputError, match=r"3\.HEIC: found a picture that is not read here, beside frames; expected \.jpg"
    ):
        open_frames(tmp_path)


def test_colours_of_the_palette_are_ids(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[:5], labels[10:15] = 1, 2
    for name, ids, certain in (("one", labels == 1, False), ("two", labels, True)):
        Image.open(io.BytesIO(encode_labels(ids.astype(np.uint8)))).convert("RGB").save(tmp_path / f"{name}.png")
        assert has_ids(tmp_path / f"{name}.png") is certain
    Image.fromarray(255 * (labels > 0).astype(np.uint8)).convert("RGB").save(tmp_path / "white.png")
    assert not has_ids(tmp_path / "white.png")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_grey_png_of_few_bits_within_inputs(tmp_path, bits):
    labels = np.zeros((8, 8), np.uint8)
    labels[:3], labels[5:] = 1, 2
    packed = labels if bits == 8 else (labels.reshape(8, -1, 8 // bits) << np.arange(8 - bits, -1, -bits)).sum(-1)
    rows = b"".join(b"\0" + bytes(np.uint8(row)) for row in packed)
    (tmp_path / "m.png").write_bytes(png(8, 8, bits, rows))
    assert np.array_equal(read_labels(tmp_path / "m.png"), labels)
    text = base64.b64encode((tmp_path / "m.png").read_bytes()).decode()
    (tmp_path / "x.jsonl").write_text(json.dumps({"op": "mask", "frame": 0, "labels": text}))
    assert np.array_equal(read_edits(tmp_path / "x.jsonl")[1][0][1].labels, labels)


def png(w, h, bits, rows):
    """A grey PNG from its rows, each with its filter before it: Pillow writes none of 2 or 4 bits."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", w, h, bits, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("notes.txt", "buy milk\nfilm the dog\n" * 30, "a text"),
        ("list.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n", "a playlist"),
        (
            "list.m3u8",
            "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.ts\n#EXT-X-ENDLIST\n",
            "(a playlist|no readable)",
        ),
    ],
)
def test_texts_and_playlists_are_no_videos(tmp_path, name, text, what):
    (tmp_path / name).write_text(text)
    for kept in ("clip.mp4", "clip.ts"):
        import av

        with av.open(str(tmp_path / kept), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for _ in range(4):
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24"))
                )
            container.mux(stream.encode())
    with pytest.raises(InputError, match=f"{name}: found {what}"):
        pmljax.frames(tmp_path / name)
