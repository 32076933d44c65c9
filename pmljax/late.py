"""What a late mask takes back of what was said before it: the background that it says to be an object.

A mask's 0 is background, of the user's own word, and so is what was labelled 0 since. An object that only a later mask has, but
that was in sight, and a part that an earlier mask lacks, would lose every vote against them: the later word holds.
Axes: `y x` grid, `q` = y·x cells, `r` reference row, `d` embedding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pmljax.references import References
from pmljax.retrieval import nearest

ALIKE = 0.2  # squared distance between embeddings of unit length, up to which two cells may show the same


@jax.jit
def taken_back(references: References, embedding: Float[Array, "y x d"], marked: Bool[Array, "q"]) -> References:
    """The references without the background that a late mask's frame contradicts: rows to which, of all its cells, one that
    the mask gives an object is the nearest, no further than ALIKE.

    embedding: of that frame.  marked: its cells with an object of the mask.
    """
    found = nearest(references.embedding, embedding.reshape(-1, embedding.shape[-1]), k=1)
    alike = marked[jnp.maximum(found.rows[:, 0], 0)] & (found.distances[:, 0] <= ALIKE)
    return references._replace(valid=references.valid & ~(alike & (references.share.argmax(-1) == 0)))
