"""pmljax: video object segmentation by pixel-wise metric learning, in JAX.

model = pmljax.load("color")
for labels in pmljax.segment(model, pmljax.frames("clip.mp4"), pmljax.labels("first.png")):
    ...                                                # uint8 [h, w]
"""

from typing import Any

from pmljax.config import ModelConfig
from pmljax.model import Model, create, embed
from pmljax.weights import load
from pmljax.retrieval import nearest, vote
from pmljax.loss import triplet_loss
from pmljax.references import References
from pmljax.interact import Session
from pmljax.presets import PRESETS, Preset
from pmljax.labelling import segment_frame
from pmljax.segment import segment, start, step
from pmljax.data.sources import open_frames as frames
from pmljax.labels import read_labels as labels, save_labels
from pmljax.errors import InputError

__all__ = [
    # Models
    "Model", "ModelConfig", "create", "embed", "load",
    # Retrieval and segmentation
    "PRESETS", "Preset", "References", "nearest", "segment", "segment_frame", "start", "step", "vote",
    # Interaction
    "Session",
    # Training
    "triplet_loss",
    # Files
    "frames", "labels", "save_labels",
    # Errors
    "InputError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name != "__version__":
        raise AttributeError(f"module 'pmljax' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pmljax")
    except PackageNotFoundError:  # where only the folder is on the path
        raise AttributeError("pmljax is not installed, so it has no __version__") from None
