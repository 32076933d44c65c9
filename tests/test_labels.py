"""Label images: palette, every form of mask, the refusals, and the matrices against loops."""

import io
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

import pmljax
from pmljax.errors import InputError
from pmljax.labels import (
    VOID,
    area_matrix,
    check_labels,
    encode_labels,
    grow_matrix,
    object_ids,
    palette,
    read_labels,
    read_result,
    shrink_matrix,
)


@pytest.fixture
def ids():
    """Two objects and a thin void line."""
    labels = np.zeros((20, 30), np.uint8)
    labels[2:10, 3:12] = 1
    labels[8:18, 14:28] = 7
    labels[:, 29] = VOID
    return labels


def save(tmp_path, image, name="m.png"):
    image.save(tmp_path / name)
    return tmp_path / name


def test_palette_is_davis():
    assert palette()[:8].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0],
        [0, 0, 128], [128, 0, 128], [0, 128, 128], [128, 128, 128],
    ]  # fmt: skip
    assert palette()[255].tolist() == [224, 224, 192]
    assert len({tuple(c) for c in palette()}) == 256


def test_written_png_reads_back(ids, tmp_path):
    data = encode_labels(ids)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "P" and image.getpalette() == palette().ravel().tolist()
    (tmp_path / "m.png").write_bytes(data)
    assert np.array_equal(read_labels(tmp_path / "m.png"), ids)


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 255), min_size=1, max_size=9),
)
def test_every_label_image_survives_writing(h, w, seed, values):
    labels = np.random.default_rng(seed).choice(np.array(values, np.uint8), (h, w))
    assert np.array_equal(np.array(Image.open(io.BytesIO(encode_labels(labels)))), labels)


def test_forms_of_masks(ids, tmp_path):
    one = ((ids > 0) & (ids < VOID)).astype(np.uint8)
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(one * 255))), one)  # DAVIS-2016
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(one.astype(bool)))), one)  # 1 bit
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(one * 255).convert("LA"))), one)  # bear/00077
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(one * 255).convert("RGB"))), one)
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(one * 255).convert("RGBA"))), one)
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(ids))), ids)  # grey ids, 255 void
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(palette()[ids]))), ids)  # RGB in palette colours
    two = Image.fromarray(one, "P")
    two.putpalette([255, 255, 255, 0, 0, 0])
    assert np.array_equal(read_labels(save(tmp_path, two)), one)  # the index is the id, whatever the colours


def test_a_grey_mask_keeps_many_ids_and_thin_void(tmp_path):
    labels = np.zeros((40, 60), np.uint8)
    for k in range(1, 11):
        labels[4 * k - 4 : 4 * k, 5 * k : 5 * k + 5] = 20 * k
    labels[labels == 0] = np.where(np.arange((labels == 0).sum()) % 3 == 0, VOID, 0)
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(labels))), labels)


def test_small_and_thin_ids_beside_void_are_kept(tmp_path):
    labels = np.zeros((40, 60), np.uint8)
    labels[20:] = VOID
    labels[5, 5] = 1  # one pixel of an object, a line of two
    labels[10:12, 3:50] = 3
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(labels))), labels)
    labels[:] = 0
    for k in range(1, 9):
        labels[4 * k, 2:50] = k  # eight scribbles
    assert np.array_equal(read_labels(save(tmp_path, Image.fromarray(labels))), labels)
    for many in (labels * np.uint8(30), np.where(labels == 0, 255, labels).astype(np.uint8)):
        with pytest.raises(InputError):  # no pixel has four neighbours alike: told from smoothing by a palette only
            read_labels(save(tmp_path, Image.fromarray(many)))
        pmljax.save_labels(tmp_path / "p.png", many)
        assert np.array_equal(pmljax.labels(tmp_path / "p.png"), many)
    with pytest.raises(InputError, match=r"p\.jpg: expected a name that ends in \.png"):
        pmljax.save_labels(tmp_path / "p.jpg", labels)


def test_results_know_no_void(ids, tmp_path):
    everything = np.full((6, 6), 255, np.uint8)
    assert read_result(save(tmp_path, Image.fromarray(everything))).max() == 1
    path = save(tmp_path, Image.fromarray(ids))
    assert np.array_equal(read_result(path), ids)


def test_white_on_black_is_no_id_of_several(tmp_path):
    """One object's is 1; of several it is said by nobody which, and the caller refuses 255."""
    mask = np.zeros((6, 6), np.uint8)
    mask[2:4] = 255
    for image in (Image.fromarray(mask), Image.fromarray(mask).convert("RGB"), Image.fromarray(mask).convert("RGBA")):
        assert np.array_equal(read_result(save(tmp_path, image)), mask // 255)
        assert np.array_equal(read_result(save(tmp_path, image), objects=3), mask)
    image = Image.fromarray(mask, "P")  # of a palette, too
    image.putpalette(palette().tobytes())
    assert np.array_equal(read_result(save(tmp_path, image)), mask // 255)
    assert np.array_equal(read_result(save(tmp_path, image), objects=3), mask)
    red = np.stack([mask, mask // 2, mask // 4], -1)
    assert np.array_equal(read_result(save(tmp_path, Image.fromarray(red))), mask // 255)
    with pytest.raises(InputError, match="which is no id's"):
        read_result(save(tmp_path, Image.fromarray(red)), objects=3)


@pytest.mark.parametrize("bits", [2, 4])
def test_greys_of_few_bits_are_ids(bits, tmp_path, rng):
    """Pillow stretches them to 0…255."""
    ids = rng.integers(0, 3, (5, 7))
    ids[0, :3] = 0, 1, 2
    lines = (np.concatenate([[int(v) >> i & 1 for i in range(bits)][::-1] for v in row]) for row in ids)
    (tmp_path / "m.png").write_bytes(png(bits, 0, *ids.shape, [np.packbits(line).tobytes() for line in lines]))
    for read in (read_labels, read_result):
        assert np.array_equal(read(tmp_path / "m.png"), ids)
    full = (ids > 0) * (2**bits - 1)  # black and white: one object
    lines = (np.concatenate([[int(v) >> i & 1 for i in range(bits)][::-1] for v in row]) for row in full)
    (tmp_path / "m.png").write_bytes(png(bits, 0, *ids.shape, [np.packbits(line).tobytes() for line in lines]))
    assert np.array_equal(read_labels(tmp_path / "m.png"), ids > 0)


def test_results_that_are_no_labels(tmp_path, rng):
    disc = (np.hypot(*(np.mgrid[:60, :80] - np.array([30, 40])[:, None, None])) < 20) * 255
    soft = Image.fromarray(disc.astype(np.uint8)).filter(ImageFilter.GaussianBlur(3))
    for image in (soft, soft.point(lambda v: v * 0.95)):  # shares; the second never 255
        with pytest.raises(InputError, match="antialiased or photographic"):
            read_result(save(tmp_path, image))
    specks = np.zeros((60, 80), np.uint8)
    specks[rng.integers(0, 60, 30), rng.integers(0, 80, 30)] = rng.integers(1, 8, 30)
    assert np.array_equal(read_result(save(tmp_path, Image.fromarray(specks))), specks)  # what is left of seven objects
    red = np.zeros((60, 80, 3), np.uint8)
    red[disc > 0] = 255, 0, 0
    assert np.array_equal(read_result(save(tmp_path, Image.fromarray(red))), disc > 0)
    refused(tmp_path / "m.png", "no id's")  # as a mask it would be a guess


def png(bits, colour, h, w, lines):
    """A PNG by hand."""
    head = struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_png(mode_bits, colour, rows):
    """A PNG with 16 bits a channel: Pillow would write and read fewer."""
    return png(mode_bits, colour, *rows.shape[:2], [row.astype(">u2").tobytes() for row in rows])


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read_labels(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for word in words:
        assert word in message
    return message


def test_refused_masks(ids, tmp_path, rng):
    smooth = Image.fromarray(((ids == 7) * 255).astype(np.uint8)).resize((60, 41), Image.Resampling.BICUBIC)
    refused(save(tmp_path, smooth), "antialiased")
    box = np.zeros((20, 20), np.uint8)
    box[5:15, 5:15] = 255
    box[4, 5:15] = box[15, 5:15] = 80  # an upright box, smoothed: each grey runs along the edge
    refused(save(tmp_path, Image.fromarray(box)), "antialiased")
    refused(save(tmp_path, Image.fromarray(rng.integers(0, 256, (30, 30), np.uint8))), "grey levels")
    square = Image.fromarray(np.pad(np.full((200, 200), 255, np.uint8), 50))
    refused(save(tmp_path, square.filter(ImageFilter.GaussianBlur(5))), "antialiased")
    y, x = np.mgrid[:200, :200]
    disc = Image.fromarray((((y - 100) ** 2 + (x - 90) ** 2 < 3600) * 255).astype(np.uint8))
    for quality in (40, 90, 98, 100):
        disc.save(tmp_path / "disc.jpg", quality=quality)
        refused(save(tmp_path, Image.open(tmp_path / "disc.jpg")), "antialiased")
    refused(save(tmp_path, disc.resize((480, 480), Image.Resampling.BILINEAR)), "antialiased")
    refused(save(tmp_path, Image.fromarray(ids * 20), "m.jpg"), "JPEG")
    refused(
        save(tmp_path, Image.fromarray(rng.integers(0, 256, (30, 30, 3), np.uint8))), "colours in all", "254 objects"
    )
    refused(save(tmp_path, Image.fromarray(ids.astype(np.uint16) * 257)), "16 bits")
    refused(save(tmp_path, Image.fromarray(ids.astype(np.float32)), "m.tif"), "mode F")
    (tmp_path / "deep.png").write_bytes(deep_png(16, 2, np.zeros((4, 12), int)))
    refused(tmp_path / "deep.png", "16 bits")
    (tmp_path / "zero.png").write_bytes(b"")
    refused(tmp_path / "zero.png", "no readable image")
    (tmp_path / "none.png").write_bytes(deep_png(8, 0, np.zeros((0, 0), int)))
    refused(tmp_path / "none.png", "no readable image")
    refused(tmp_path / "absent.png", "no such file")
    whole = encode_labels(ids)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) - 40])
    refused(tmp_path / "cut.png", "no readable image")


def test_check_labels():
    ok = np.array([[0, 3], [255, 254]])
    assert check_labels(ok).dtype == np.uint8
    assert object_ids(check_labels(ok)) == [3, 254]
    for bad, words in [
        (np.zeros((2, 2), int), "no object"),
        (np.full((2, 2), 255), "nothing but void"),
        (np.array([[300]]), "label 300"),
        (np.array([[-1]]), "label -1"),
        (np.zeros((0, 4), int), "size zero"),
        (np.zeros((2, 2, 3), int), "expected integer labels"),
        (np.zeros((2, 2)), "expected integer labels"),
    ]:
        with pytest.raises(InputError, match=words):
            check_labels(bad, "m.png", objects=True)
    with pytest.raises(InputError, match="the mask is 2×2, the frame 4×3"):
        check_labels(ok, "m.png", (3, 4))


# The matrices


def shrink_by_hand(size, cells, stride, seen):
    """Exact areas by fractions: cell i is [s·i − s/2, s·i + s/2] in the pixels seen, pixel p covering p ± ½."""
    scale = Fraction(size, seen)
    out = np.zeros((cells, size))
    for i in range(cells):
        low, high = (
            scale * (stride * i + side + Fraction(1, 2)) for side in (-Fraction(stride, 2), Fraction(stride, 2))
        )
        part = [max(Fraction(0), min(high, p + 1) - max(low, p)) for p in range(size)]
        out[i] = [float(x / sum(part)) for x in part]
    return out


@given(st.integers(9, 70), st.sampled_from([4, 8, 16]), st.booleans())
def test_shrink_against_fractions(size, stride, scaled):
    seen = max(size // 2, 8) if scaled else size
    cells = (seen + 1) // stride + 1
    assert np.allclose(shrink_matrix(size, cells, stride, seen), shrink_by_hand(size, cells, stride, seen), atol=1e-6)


@given(st.integers(2, 70), st.integers(1, 12), st.sampled_from([4, 8, 16]))
def test_grow_against_a_loop(size, cells, stride):
    values = np.random.default_rng(size).normal(size=cells)
    expected = [np.interp(min(p / stride, cells - 1), np.arange(cells), values) for p in range(size)]
    assert np.allclose(grow_matrix(cells, size, stride) @ values, expected, atol=1e-5)


def test_a_ramp_goes_to_the_grid_and_back():
    # 480 has its last cell one pixel past the image; 7 mod 8 has two rows more than ⌊H/8⌋ in the ceil geometry.
    for size in (480, 854, 479, 39, 321):
        cells = (size + 1) // 8 + 1
        shrunk = shrink_matrix(size, cells) @ np.arange(size)
        inner = slice(1, (size - 5) // 8)
        assert np.allclose(shrunk[inner], 8 * np.arange(cells)[inner], atol=1e-3)
        grown = grow_matrix(cells, size) @ (8.0 * np.arange(cells))
        assert np.allclose(grown, np.minimum(np.arange(size), 8 * (cells - 1)), atol=1e-3)


def test_scaled_frames_keep_their_place():
    """A frame of twice the size, seen at half: its cells lie on the same places of the picture."""
    ramp = (np.arange(160) + 0.5) / 160
    cells = 11
    half = (np.arange(80) + 0.5) / 80
    fine, coarse = shrink_matrix(160, cells, 8, 80) @ ramp, shrink_matrix(80, cells) @ half
    assert np.allclose(fine[1:-1], coarse[1:-1], atol=1e-6)
    assert np.allclose(fine, coarse, atol=2e-3)  # at the border half a pixel of the coarse picture is cut off
    back = grow_matrix(cells, 160, 8, 80) @ (shrink_matrix(80, cells) @ half)
    assert np.allclose(back[20:-20], ramp[20:-20], atol=1e-6)


def test_half_pixel_is_the_reproductions_convention():
    values = np.random.default_rng(1).random(7).astype(np.float32)
    pillow = np.array(Image.fromarray(values[None]).resize((50, 1), Image.Resampling.BILINEAR))[0]
    assert np.allclose(grow_matrix(7, 50, half_pixel=True) @ values, pillow, atol=1e-6)
    labels = np.arange(50, dtype=np.uint8)
    nearest = np.array(Image.fromarray(labels[None]).resize((7, 1), Image.Resampling.NEAREST))[0]
    assert np.array_equal(shrink_matrix(50, 7, half_pixel=True) @ labels, nearest)


@given(st.integers(8, 60), st.integers(2, 8))
def test_area_matrix(size, new):
    picture = np.random.default_rng(size).random((1, size)).astype(np.float32)
    pillow = np.array(Image.fromarray(picture).resize((new, 1), Image.Resampling.BOX))[0]
    matrix = area_matrix(size, new)
    assert np.allclose(matrix.sum(1), 1, atol=1e-6)
    if size % new == 0:  # Pillow's box rounds to whole pixels otherwise
        assert np.allclose(matrix @ picture[0], pillow, atol=1e-5)
    edges = np.concatenate([[0], np.cumsum(picture[0].astype(float))])
    cuts = np.interp(np.arange(new + 1) * size / new, np.arange(size + 1), edges)
    assert np.allclose(matrix @ picture[0], np.diff(cuts) * new / size, atol=1e-5)


def test_a_shape_in_the_alpha_channel_alone_is_refused(tmp_path):
    alpha = np.zeros((20, 30), np.uint8)
    alpha[5:9, 5:9] = 255
    for mode, white in (("RGBA", (255,) * 3), ("RGBA", (0,) * 3), ("LA", (255,))):
        pixels = np.concatenate([np.broadcast_to(np.uint8(white), (20, 30, len(white))), alpha[..., None]], -1)
        Image.fromarray(pixels, mode).save(tmp_path / "m.png")
        for read in (read_labels, read_result):
            with pytest.raises(InputError, match="alpha channel alone"):
                read(tmp_path / "m.png")
    red = np.where(alpha[..., None] > 0, np.uint8([128, 0, 0, 255]), np.uint8(0))  # a palette's colour on nothing
    Image.fromarray(red).save(tmp_path / "m.png")
    assert np.array_equal(read_labels(tmp_path / "m.png"), alpha > 0)


def test_a_result_of_one_colour_all_over_is_object_1(tmp_path):
    Image.new("RGB", (9, 7), (10, 200, 30)).save(tmp_path / "m.png")
    assert (read_result(tmp_path / "m.png") == 1).all()
    with pytest.raises(InputError, match="no id's"):
        read_labels(tmp_path / "m.png")
