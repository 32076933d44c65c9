"""Made clips: textured objects that move, turn, hide each other and pass behind a post, before a background that drifts.

A pure function of a key, on the device. One of the things that move is a distractor: coloured like object 1, but
background in the labels. Axes: `t` frame, `h w` image.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

WAVES = 12  # of a texture
HARMONICS = 5  # of an outline


class Clip(NamedTuple):
    """frames: uint8 `[t, h, w, 3]`.  labels: uint8 `[t, h, w]`, 0 background, 1…objects."""

    frames: jax.Array
    labels: jax.Array


class _Layer(NamedTuple):
    """One thing in the scene: how it looks, in its own coordinates, and how it moves, in units of the short side."""

    colour: jax.Array  # [3], 0…1
    waves: jax.Array  # [WAVES, 2] frequencies
    phases: jax.Array  # [WAVES]
    tints: jax.Array  # [WAVES, 3]
    outline: jax.Array  # [HARMONICS, 2] amplitudes of cosine and sine
    radius: jax.Array
    begin: jax.Array  # [2] y, x
    velocity: jax.Array  # [2] over the clip
    sway: jax.Array  # [2] amplitude
    turns: jax.Array  # [2] angle at the beginning, and change over the clip
    swell: jax.Array  # relative change of size over the clip


@partial(jax.jit, static_argnames=("frames", "size", "objects"))
def clip(
    key: PRNGKeyArray,
    *,
    frames: int = 24,
    size: tuple[int, int] = (240, 426),
    objects: int = 2,
    light: float | Float[Array, ""] = 0.0,
) -> Clip:
    """Make a clip of `frames` frames of `size` (h, w) with `objects` objects (1…8): in frame 0 one or two are whole and in
    view, of more some are cut by the edge or lie behind others.

    A lower id is nearer to the viewer. light: how much brightness and tint of the whole picture change over time, as
    the logarithm of a factor. The same key gives the same clip on the same kind of device.
    """
    if not 1 <= objects <= 8:
        raise ValueError(f"objects: found {objects}, expected 1…8")
    h, w = size
    short = min(h, w)
    y, x = jnp.meshgrid(*((jnp.arange(n, dtype=jnp.float32) + 0.5) / short for n in size), indexing="ij")
    extent = jnp.array([h / short, w / short])
    keys = jax.random.split(key)
    swing = jax.random.normal(jax.random.fold_in(key, 1), (2, 4))  # of cosine and sine: brightness, then the tint

    # Everything there is, drawn at once: the objects, the distractor, the ground, the post.
    drawn = jax.vmap(partial(_draw_layer, extent=extent))(jax.random.split(keys[0], objects + 3))
    begin = _spread(keys[1], objects, extent)
    # Object 1 passes behind the post.
    side = jnp.sign(extent[1] / 2 - begin[0, 1])
    post_x = (0.5 + 0.05 * side) * extent[1]
    drawn = drawn._replace(
        begin=drawn.begin.at[:objects].set(begin),
        velocity=drawn.velocity.at[0, 1].set(1.2 * (post_x - begin[0, 1])),
    )
    *things, distractor, ground, post = (jax.tree.map(lambda leaf, k=k: leaf[k], drawn) for k in range(objects + 3))
    # The distractor: object 1's colours on another outline, coming in from beyond the edge.
    distractor = distractor._replace(
        colour=things[0].colour,
        tints=things[0].tints,
        begin=jnp.array([0.5, 0.5]) * extent + jnp.array([0.0, 0.75]) * side * extent,
        velocity=jnp.array([0.0, -0.5]) * side * extent,
        sway=jnp.zeros(2),
    )

    # From the back: the distractor, which is background, and the objects. One after the other in a loop, compiled once.
    layers = jax.tree.map(lambda *each: jnp.stack(each), distractor, *things[::-1])
    ids = jnp.array([0, *range(objects, 0, -1)], jnp.uint8)

    def one_frame(n: Float[Array, ""]) -> tuple[jax.Array, jax.Array]:
        def lay(there: tuple[jax.Array, jax.Array], one: tuple[_Layer, jax.Array]):
            image, inside = _lay(there[0], one[0], n, y, x)
            return (image, jnp.where(inside, one[1], there[1])), None

        image = _texture(ground, (y + 0.1 * n * ground.velocity[0], x + 0.1 * n * ground.velocity[1]))
        image, labels = jax.lax.scan(lay, (image, jnp.zeros((h, w), jnp.uint8)), (layers, ids))[0]
        before = jnp.abs(x - post_x) < 0.03
        image = jnp.where(before[..., None], _texture(post, (y, x)), image)
        wave = jnp.stack([jnp.cos(2 * jnp.pi * n), jnp.sin(2 * jnp.pi * n)]) @ swing
        image = image * jnp.exp(light * (0.5 * wave[:1] + 0.25 * wave[1:])).reshape(1, 1, 3)
        return (jnp.clip(image, 0, 1) * 255).astype(jnp.uint8), jnp.where(before, jnp.uint8(0), labels)

    return Clip(*jax.lax.map(one_frame, jnp.linspace(0, 1, frames)))


def _draw_layer(key: PRNGKeyArray, extent: Float[Array, "2"]) -> _Layer:
    """A random thing: everything but where it begins is drawn here."""
    # Even numbers of 0…1 for all that is drawn, each from a key of its own, in one call: thirteen are compiled in seconds.
    even = iter(jax.vmap(lambda k: jax.random.uniform(k, (3 * WAVES,)))(jax.random.split(key, 14)))

    def between(low: float, high: float, *shape: int) -> jax.Array:
        begin, end = jnp.float32(low), jnp.float32(high)
        return jnp.maximum(begin, next(even)[: np.prod(shape, dtype=int)].reshape(shape) * (end - begin) + begin)

    def normal(*shape: int) -> jax.Array:
        return np.sqrt(2) * jax.lax.erf_inv(between(float(np.nextafter(np.float32(-1), 0)), 1.0, *shape))

    pitch = jnp.exp(between(np.log(4.0), np.log(60.0), WAVES, 1))
    direction = between(0.0, np.pi, WAVES, 1)
    falling = 1 / jnp.arange(2, HARMONICS + 2, dtype=jnp.float32)[:, None]
    grey = between(0.3, 0.7)
    # Mostly light and shade, a little colour, less of both the finer the wave.
    shade = normal(WAVES, 1) * 0.1 + normal(WAVES, 3) * 0.04
    return _Layer(
        colour=grey + between(-0.22, 0.22, 3),
        waves=pitch * jnp.concatenate([jnp.cos(direction), jnp.sin(direction)], -1),
        phases=between(0.0, 2 * np.pi, WAVES),
        tints=shade * (pitch / 4) ** -0.4,
        outline=normal(HARMONICS, 2) * 0.12 * falling,
        radius=between(0.14, 0.2),
        begin=jnp.zeros(2),
        velocity=between(-0.3, 0.3, 2) * extent,
        sway=between(0.0, 0.06, 2),
        turns=between(-1.0, 1.0, 2) * jnp.array([3.0, 1.0]),
        swell=between(-0.2, 0.3),
    )


def _spread(key: PRNGKeyArray, objects: int, extent: Float[Array, "2"]) -> Float[Array, "objects 2"]:
    """Where the objects begin: side by side in random order, one or two clear of each other and of the post."""
    keys = jax.random.split(key)
    slot = jax.random.permutation(keys[0], jnp.arange(objects, dtype=jnp.float32))
    x = (slot + 0.5) / objects
    x = jnp.where(jnp.abs(x - 0.5) < 0.15, 0.25, x)
    y = jax.random.uniform(keys[1], (objects,), minval=0.3, maxval=0.7)
    return jnp.stack([y * extent[0], x * extent[1]], -1)


def _lay(
    image: Float[Array, "h w 3"], layer: _Layer, n: Float[Array, ""], y: Float[Array, "h w"], x: Float[Array, "h w"]
) -> tuple[Float[Array, "h w 3"], Array]:
    """`image` with the layer before it at time n in 0…1, and where the layer is."""
    centre = layer.begin + n * layer.velocity + layer.sway * jnp.sin(2 * jnp.pi * n)
    angle = layer.turns[0] + n * layer.turns[1]
    scale = 1 + n * layer.swell
    dy, dx = (y - centre[0]) / scale, (x - centre[1]) / scale
    own = (jnp.cos(angle) * dy - jnp.sin(angle) * dx, jnp.sin(angle) * dy + jnp.cos(angle) * dx)
    around = jnp.arctan2(*own)
    waves = jnp.arange(1, HARMONICS + 1, dtype=jnp.float32)[:, None, None] * around[None]
    bumps = jnp.einsum("k,khw->hw", layer.outline[:, 0], jnp.cos(waves))
    bumps += jnp.einsum("k,khw->hw", layer.outline[:, 1], jnp.sin(waves))
    inside = jnp.hypot(*own) < layer.radius * (1 + bumps)
    return jnp.where(inside[..., None], _texture(layer, own), image), inside


def _texture(layer: _Layer, place: tuple[Float[Array, "h w"], Float[Array, "h w"]]) -> Float[Array, "h w 3"]:
    """Colours at a place in the layer's own coordinates: a base and a sum of plane waves."""
    phases = jnp.matmul(jnp.stack(place, -1), layer.waves.T, precision="highest") + layer.phases[None, None]
    return layer.colour[None, None] + jnp.matmul(jnp.cos(phases), layer.tints, precision="highest")
