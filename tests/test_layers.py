"""The arrows of the architecture, from the imports themselves, and what `import pmljax` loads."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import pmljax

ROOT = Path(pmljax.__file__).parent

# Who may import whom, inside the package. `errors`, `files` and `jitted` stand at the bottom: anybody may.
ARROWS = {
    "errors": set(),
    "files": set(),
    "jitted": set(),
    "pictures": set(),
    "labels": {"pictures"},
    "metrics": set(),
    "fusion": set(),
    "winograd": {"fusion"},
    "norm": set(),
    "conv": {"fusion", "winograd"},
    "device": set(),
    "runlog": set(),
    "resnet": {"conv", "fusion", "norm"},
    "retrieval": set(),
    "bilateral_grid": set(),
    "bilateral": {"bilateral_grid"},
    "confidence": {"bilateral_grid"},
    "loss": set(),
    "config": {"resnet"},
    "preprocess": {"config", "labels"},
    "model": {"config", "conv", "labels", "preprocess", "resnet"},
    "sampling": {"labels"},
    "train": {"config", "loss", "model", "preprocess", "sampling"},
    "parallel": {"train"},
    "recipes": {"config", "sampling", "train"},
    "fit": {"model", "parallel", "runlog", "sampling", "train", "weights"},
    "validation": {"data", "labels", "masks", "metrics", "model", "presets", "segment"},
    "references": {"config", "labels", "preprocess"},
    "separation": set(),
    "memory": set(),
    "augmented": {"labels", "memory"},
    "adaptation": {"augmented", "memory", "references", "retrieval", "separation"},
    "presets": {"adaptation", "bilateral_grid", "config", "retrieval"},
    "ahead": {"model", "presets"},
    "labelling": {
        "adaptation",
        "ahead",
        "bilateral",
        "confidence",
        "config",
        "labels",
        "model",
        "preprocess",
        "presets",
        "references",
        "retrieval",
    },
    "late": {"references", "retrieval"},
    "segment": {
        "adaptation",
        "ahead",
        "augmented",
        "labelling",
        "labels",
        "late",
        "memory",
        "model",
        "presets",
        "references",
    },
    "inputs": {"labels", "pictures"},
    "marks": {"inputs", "labels"},
    "embedded": {"config", "model", "weights"},
    "answers": {"retrieval"},
    "held": {"answers"},
    "scribbles": {"inputs"},
    "editlog": {"inputs"},
    "views": {"answers", "embedded", "interact"},
    "page": {"data", "editlog", "inputs", "interact", "labels", "page", "scribbles", "views"},
    "annotating": {"data", "editlog", "interact", "page", "segmenting", "terminal", "weights"},
    "interact": {
        "answers",
        "config",
        "embedded",
        "held",
        "inputs",
        "labelling",
        "labels",
        "marks",
        "model",
        "presets",
        "references",
    },
    "weights": {"config", "model", "resnet", "weights"},
    "data": {"data", "labels", "pictures"},
    "resident": {"data", "device", "labels", "sampling"},
    "semantic": {"config", "labels", "loss", "preprocess", "resnet", "sampling", "train"},
    "scoring": {"data", "labels", "metrics"},
    "masks": {"data", "labels"},
    "results": {"data", "inputs", "interact", "labels", "model", "presets", "segment", "weights"},
    "demo": {"data", "labels", "metrics"},
    "terminal": {"metrics"},
    "options": set(),
    "sources": {"data", "options"},
    "training": {
        "data",
        "device",
        "fit",
        "options",
        "recipes",
        "resident",
        "runlog",
        "sampling",
        "sources",
        "terminal",
        "validation",
        "weights",
    },
    "porting": {"model", "terminal", "weights"},
    "segmenting": {
        "data",
        "device",
        "editlog",
        "embedded",
        "interact",
        "masks",
        "presets",
        "results",
        "scribbles",
        "terminal",
        "weights",
    },
    "cli": {
        "annotating",
        "config",
        "data",
        "demo",
        "options",
        "device",
        "masks",
        "metrics",
        "model",
        "porting",
        "results",
        "scoring",
        "segmenting",
        "terminal",
        "training",
        "weights",
    },
    "__main__": {"cli"},
}
OUTSIDE_OF_KERNELS = {"jax", "flax", "jaxtyping", "numpy"}


def imports(path: Path) -> set[str]:
    """Everything that a module imports, at its top or in a function, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "pmljax" else {node.module}
            )
    return found


MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(ROOT)) for p in MODULES])
def test_arrows(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert room in ARROWS, f"{room} is a new room: give it its arrows here and in the README"
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("pmljax.")}
    assert inside <= ARROWS[room] | {"errors", "files", "jitted"}


KERNELS = [
    "jitted",
    "fusion",
    "winograd",
    "conv",
    "norm",
    "resnet",
    "retrieval",
    "separation",
    "memory",
    "bilateral_grid",
    "bilateral",
    "confidence",
    "loss",
]


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_know_jax_and_flax_only(name):
    """And one another. NumPy: for the constants of `winograd`, and for `jitted`, which copies its arrays."""
    outside = imports(ROOT / f"{name}.py") - {"pmljax"} - {f"pmljax.{kernel}" for kernel in KERNELS}
    known = OUTSIDE_OF_KERNELS - (set() if name in ("winograd", "jitted") else {"numpy"})
    assert {n.split(".")[0] for n in outside} - set(sys.stdlib_module_names) <= known


@pytest.mark.parametrize("name", ["labels", "metrics"])
def test_numpy_rooms_do_not_import_jax(name):
    assert not {n.split(".")[0] for n in imports(ROOT / f"{name}.py")} & {"jax", "flax"}


def test_no_cycles():
    """Between modules, not only between rooms."""
    names = {p.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".") for p in MODULES}
    graph = {}
    for path in MODULES:
        name = path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".")
        graph[name] = {n if n in names else f"{n}.__init__" for n in imports(path) if n.startswith("pmljax")}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("pmljax.resnet") < order.index("pmljax.model") < order.index("pmljax.cli")


def test_import_loads_jax_flax_and_numpy_only():
    code = """
import jax, flax, flax.linen, flax.struct, numpy, jaxtyping, sys
before = set(sys.modules)
import pmljax
new = {m.split(".")[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(sorted(new))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pmljax']"
