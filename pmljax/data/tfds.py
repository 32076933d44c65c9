"""DAVIS as TFDS keeps it, `DATA_DIR/davis/480p/2.1.0`, read from its array_record files without TensorFlow.

`experiments/prepare_tfds.py` writes it. TFDS's own decoding would decode the 60 to 100 frames of a video to use three; here
only those that are drawn are decoded, with Pillow.
"""

from __future__ import annotations

import io
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from pmljax.data.clip_sources import Cache, RawClip, hold_pair
from pmljax.errors import InputError
from pmljax.labels import VOID, check_labels


def tfds_source(data_dir: str | Path, split: str = "train", *, name: str = "tfds", cache: Cache | None = None):
    """The videos of one split ("train", "validation") as a source of clips; InputError where it is not prepared."""
    return TfdsSource(Path(data_dir) / "davis" / "480p" / "2.1.0", split, name, cache)


class TfdsSource:
    """Videos of a prepared data set: a video is drawn, then distinct frames of it in random order."""

    def __init__(self, folder: Path, split: str, name: str = "tfds", cache: Cache | None = None):
        self.folder, self.split, self.name, self.cache = folder, split, name, cache
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            raise InputError("reading a TFDS data set needs tensorflow-datasets; pip install 'pmljax[train]'") from None
        if not (folder / "dataset_info.json").is_file():
            raise InputError(f"{folder}: found no prepared data set; expected what experiments/prepare_tfds.py writes")
        builder = tfds.builder_from_directory(str(folder))
        if split not in builder.info.splits:
            raise InputError(f"{folder}: found no split {split}; expected one of {', '.join(builder.info.splits)}")
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self.records = builder.as_data_source(split, deserialize_method=raw)  # pyright: ignore[reportCallIssue]
        self.videos = []
        for i in range(len(self.records)):
            features = self._read(i)
            video = features["metadata/video_name"].bytes_list.value[0].decode()
            count = len(features["video/frames"].bytes_list.value)
            if count < 3:
                raise InputError(f"{folder}: found {count} frames of {video}; expected 3 or more")
            self.videos.append((video, count))
        self.most = min(count for _, count in self.videos)

    @property
    def reels(self) -> int:
        return len(self.videos)

    def _read(self, index: int):
        """The record of one video: lists of encoded pictures by feature."""
        # What TFDS itself parses with where there is no TensorFlow.
        from tensorflow_datasets.proto import tf_example_pb2

        example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
        example.ParseFromString(self.records[index])
        return example.features.feature

    def _choose(self, rng: np.random.Generator, frames: int) -> tuple[str, int, list[int]]:
        which = int(rng.integers(len(self.videos)))
        video, count = self.videos[which]
        chosen = [int(i) for i in rng.permutation(count)[:frames]]
        return " ".join([self.name, video, *(f"{i:05d}" for i in chosen)]), which, chosen

    def draw(self, rng: np.random.Generator, frames: int, short_side: int | None) -> RawClip:
        return self._drawn(*self._choose(rng, frames), short_side)

    def reel(self, index: int, rng: np.random.Generator, views: int, short_side: int | None) -> RawClip:
        video, count = self.videos[index]
        return self._drawn(f"{self.name} {video}", index, list(range(count)), short_side)

    def _drawn(self, name: str, which: int, chosen: list[int], short_side: int | None) -> RawClip:
        (video, count), record = self.videos[which], lru_cache(1)(lambda: self._read(which))  # only if it is needed

        def written(i: int) -> np.ndarray:
            return _decode(record()["video/segmentations"].bytes_list.value[i], "L", f"{self.folder}: {video} {i:05d}")

        def one_alone(labels: np.ndarray) -> bool:
            return set(np.unique(labels)) <= {0, VOID}

        def read(i: int) -> tuple[np.ndarray, np.ndarray]:
            where, labels = f"{self.folder}: {video} {i:05d}", written(i)
            image = _decode(record()["video/frames"].bytes_list.value[i], "RGB", where)
            if VOID in labels and one_alone(labels) and all(one_alone(written(k)) for k in range(count)):
                labels = labels // VOID  # one object written as 255, as in DAVIS-2016; beside ids it is void
            return image, check_labels(labels, where, image.shape[:2])

        key = (self.folder, self.split, video)
        held = [hold_pair((*key, i), partial(read, i), short_side, self.cache) for i in chosen]
        return RawClip([h[0] for h in held], [h[1] for h in held], [float(i) for i in chosen], name)

    def describe(self, rng: np.random.Generator, frames: int) -> str:
        return self._choose(rng, frames)[0]


def _decode(data: bytes, mode: str, where: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: broken or truncated picture ({error}); prepare the data set again") from None
