"""The same video as a folder, as mp4 at several qualities, and as a GIF: do the labels agree, up to compression?

    python -m experiments.formats --frames DAVIS/JPEGImages/480p/car-roundabout \\
        --mask DAVIS/Annotations/480p/car-roundabout/00000.png

A minute on two cores for 75 frames of 480×854. Prints, for each video, how far its frames are from the folder's and the
mean J of its labels against the folder's, the first frame (the mask itself) left out.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import tyro

import pmljax
from pmljax.data.video import VideoWriter
from pmljax.labels import object_ids
from pmljax.metrics import jaccard
from pmljax.terminal import status

# (name, codec, pixel format, quality factor of x264)
ENCODINGS = (
    ("lossless.mp4", "libx264rgb", "rgb24", 0),
    ("crf1.mp4", "libx264", "yuv420p", 1),
    ("crf10.mp4", "libx264", "yuv420p", 10),
    ("crf23.mp4", "libx264", "yuv420p", 23),
)


@dataclass(frozen=True)
class Config:
    frames: Path
    """A folder of frames."""
    mask: Path
    """The mask of the first one."""
    end: int | None = None
    """Only the frames before this one."""
    model: str = "color"


def encode(path: Path, images: list[np.ndarray], codec: str, pixels: str, quality: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options={"crf": str(quality)})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], pixels
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def main(config: Config) -> None:
    mask = pmljax.labels(config.mask)
    ids = object_ids(mask)
    source = pmljax.frames(config.frames, end=config.end)
    images = list(source)
    model = pmljax.load(config.model)
    expected = list(pmljax.segment(model, images, mask))
    with tempfile.TemporaryDirectory() as scratch:
        paths = []
        for name, *how in ENCODINGS:
            paths.append(Path(scratch, name))
            encode(paths[-1], images, *how)
        paths.append(Path(scratch, "clip.gif"))
        with VideoWriter(paths[-1]) as video:
            for frame in source.stamped():
                video.write(frame.image, frame.seconds)
        for path in paths:
            stream = pmljax.frames(path)
            away = np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(stream, images, strict=True)])
            pairs = list(zip(pmljax.segment(model, stream, mask), expected, strict=True))[1:]
            agree = np.mean([jaccard(a == k, b == k) for a, b in pairs for k in ids])
            size = path.stat().st_size / 1e6
            print(f"{path.name:13} {size:5.1f} MB, frames {away:.2f} grey levels away, labels' mean J {agree:.3f}")


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(status(lambda: main(config)))
