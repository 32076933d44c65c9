"""`pmljax import-torch` and `export-torch`: weights from PyTorch's files, and back to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pmljax.errors import InputError
from pmljax.files import asked_file
from pmljax.terminal import note, show
from pmljax.weights.layouts import LAYOUTS, LayoutName
from pmljax.weights.torch import MODEL


@dataclass(frozen=True)
class ImportTorch:
    """Import weights from PyTorch: a checkpoint of this method, of a DeepLab-v2 or of torchvision's ResNets.

    pmljax import-torch voc.pth --out imported

    pmljax segment clip.mp4 --mask first.png --model imported --out out

    The layout is recognised from names and shapes. A bare ResNet trunk needs --layout: torchvision's and DeepLab-v2's names
    are the same, their geometry is not. Every tensor without a place and every variable without a weight is listed. A file
    that has only a trunk gets the paper's head with random weights: of a DeepLab-v2 a beginning for `pmljax train --recipe
    paper --init imported`, nothing to segment with. Frames are labelled by this package's presets: --plain is nearest to what
    the reproductions do. Writes OUT/model.safetensors, OUT/rest.safetensors (counters, classifier) and OUT/import.json.
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """PyTorch's weights: .pth (zip or legacy; needs PyTorch) or .safetensors. Code in the file is never run."""
    out: Path
    """The folder to write to."""
    layout: LayoutName | None = None
    """Whose names they are: sydney0zq (PML), bfvos (and bfvos-2018: before 13 June 2018), isht7, speedinghzl (or any bare
    DeepLab-v2 trunk), kazuto1011 (and -2018: before February 2019, -coco: its COCO initialisation), torchvision, deeplabv3
    (torchvision's)."""
    seed: int = 0
    """Of the head's random weights, where the file has a trunk only."""
    overwrite: bool = False
    """Write over another import in OUT."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        import jax

        from pmljax.model import parameter_count
        from pmljax.weights.torch import RECORD, match, to_model, write_import
        from pmljax.weights.torch_files import read_tensors

        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}: expected 0…{2**32 - 1}")
        # An import that was killed has no model yet.
        ours = any((self.out / name).is_file() for name in (MODEL, RECORD))
        if self.out.is_dir() and any(self.out.iterdir()) and not (self.overwrite and ours):
            hint = " (--overwrite writes over an import)" if ours else ""
            raise InputError(f"{self.out}: found a folder that is not empty, expected an empty or a new one{hint}")
        tensors = read_tensors(self.file, note)
        try:
            found = match(tensors, self.layout)
            if found.refusal():
                show(found.text())  # all the names; the error has room for some
            model = to_model(tensors, found, jax.random.key(self.seed))
        except InputError as error:
            raise InputError(f"{self.file}: {error}") from None
        write_import(self.out, model, tensors, found, self.file.name)
        result = {
            "out": str(self.out),
            "layout": found.layout.name,
            "depth": model.config.depth,
            "parameters": parameter_count(model),
            "taken": len(found.taken),
            "fresh": list(found.fresh),
            "absent": list(found.loose),
            "left over": list(found.left),
        }
        text = f"{found.text()}\n{result['parameters']:,} parameters; --model {self.out}"
        show(result if self.json else text)


@dataclass(frozen=True)
class ExportTorch:
    """Export a model's weights as a PyTorch state_dict, which load_state_dict(strict=True) of that layout's module takes.

    pmljax export-torch imported --layout sydney0zq --out pml.pth

    What was imported goes out bit for bit, without the `module.` that may have stood before its names: the counters and the
    classifier come from the import's folder. Without one, counters are 0, and of the layouts with a classifier the trunk
    alone is written.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """random:NAME, or the path of a .safetensors file, of a training run or of an import."""
    layout: LayoutName
    """Whose names to give the weights."""
    out: Path
    """The file to write: .pth, .pt (need PyTorch) or .safetensors."""
    parallel: bool = False
    """Put `module.` before every name, as DataParallel does."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        from pmljax.weights import load
        from pmljax.weights.torch import PARALLEL, differences, read_kept, state_dict
        from pmljax.weights.torch_files import write_tensors

        out = asked_file(self.out)
        model, kept = load(self.model), read_kept(Path(self.model))
        tensors = state_dict(model, self.layout, kept)
        if self.parallel:
            tensors = {PARALLEL + name: x for name, x in tensors.items()}
        write_tensors(out, tensors)
        notes = []
        if differing := differences(model.config, self.layout):
            notes.append(f"not in the file, to be set in PyTorch: {', '.join(differing)}")
        layout = LAYOUTS[self.layout]
        if not layout.head:
            notes.append("the head is left out: this layout has none")
            if kept is None or kept.layout != self.layout:
                notes.append("no classifier: load with strict=False, or into the trunk")
        result = {"out": str(self.out), "layout": self.layout, "tensors": len(tensors), "notes": notes}
        text = "\n".join([f"{len(tensors)} tensors of layout {self.layout} in {self.out}", *notes])
        show(result if self.json else text)
