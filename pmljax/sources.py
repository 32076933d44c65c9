"""What a training's clips are made of: the options that say so, and the sources that they open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmljax.errors import InputError
from pmljax.options import check_together


@dataclass(frozen=True)
class Clips:
    """What the clips are made of. Several sources are mixed."""

    davis: Path | None = None
    """A DAVIS root: its sequences' own frames, three of one sequence a clip."""
    split: str = "train"
    """Of the DAVIS root: the list of sequences, ImageSets/YEAR/SPLIT.txt."""
    year: int | None = None
    """Of that list, by default the year that has it. 2016: all objects of a frame are one."""
    youtube_vos: Path | None = None
    """A split's folder of YouTube-VOS (…/train)."""
    stills: Path | None = None
    """A VOC-layout folder (JPEGImages, SegmentationObject, ImageSets): each picture made into a clip by moving it."""
    stills_split: str = "train"
    """Of the stills: the list of pictures, ImageSets/Segmentation/SPLIT.txt."""
    tfds: Path | None = None
    """A folder in which the TFDS set davis/480p was prepared (experiments/prepare_tfds.py)."""
    synthetic: bool = False
    """Made clips, which need no data."""
    synthetic_clips: int = 64
    """How many of these are made, when training begins."""
    weights: tuple[float, ...] = ()
    """How often each source is drawn, in the order davis, youtube-vos, stills, tfds, synthetic of those given; equally by
    default."""

    def sources(self, seed: int) -> tuple[list[Any], list[float], str]:
        """(sources, weights, what they are in words)."""
        from pmljax.data import clip_sources, davis, youtube_vos
        from pmljax.data.stills import StillSource
        from pmljax.data.tfds import tfds_source

        check_together(
            self, {"split": "davis", "year": "davis", "stills_split": "stills", "synthetic_clips": "synthetic"}
        )
        found: list[tuple[str, Any]] = []
        cache = clip_sources.Cache()
        if self.davis:
            year, names = davis.find_split(self.davis, self.split, self.year)
            sequences = [davis.open_sequence(self.davis, name) for name in names]
            source = clip_sources.VideoSource(sequences, "davis", cache, merge=year == 2016)
            told = clip_sources.fingerprint(path for s in sequences for path in (*s.files, *s.annotations.values()))
            found.append((f"davis {year} {self.split} ({len(names)}, {told})", source))
        if self.youtube_vos:
            names = youtube_vos.list_videos(self.youtube_vos)
            videos = [youtube_vos.open_video(self.youtube_vos, name) for name in names]
            kept, short = clip_sources.long_enough(videos)
            told = clip_sources.fingerprint(path for s in kept for path in (*s.files, *s.annotations.values()))
            words = f"youtube-vos ({len(kept)}, {told}, {short} with fewer than 3 annotated frames left out)"
            found.append((words, clip_sources.VideoSource(kept, "youtube-vos", cache)))
        if self.stills:
            # Of pictures with background, half with all their parts as one object: parts, or the whole.
            stills = StillSource(self.stills, self.stills_split, merge=0.5, cache=cache)
            told = clip_sources.fingerprint(path for pair in stills.pairs for path in pair)
            found.append((f"stills {self.stills_split} ({len(stills.pairs)}, {told})", stills))
        if self.tfds:
            found.append(("tfds davis/480p train", tfds_source(self.tfds, "train", cache=cache)))
        if self.synthetic:
            if self.synthetic_clips < 1:
                raise InputError(f"--synthetic-clips {self.synthetic_clips}: expected 1 or more")
            words = "synthetic" if self.synthetic_clips == 64 else f"synthetic ({self.synthetic_clips})"
            found.append((words, clip_sources.SyntheticSource(seed, self.synthetic_clips)))
        if not found:
            raise InputError(
                "found no source of clips; expected --davis, --youtube-vos, --stills, --tfds or --synthetic"
            )
        weights = list(self.weights) or [1.0] * len(found)
        if len(weights) != len(found) or not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
            raise InputError(
                f"--weights {' '.join(map(str, weights))}: expected {len(found)} numbers, one a source given"
            )
        words = ", ".join(f"{name} × {weight:g}" for (name, _), weight in zip(found, weights, strict=True))
        return [source for _, source in found], weights, words
