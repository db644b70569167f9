"""Recurrent layers of Keras in a form that LiteRT's converter takes: without the lists of tensors that Keras's own loop
collects its steps in."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

MAX_UNROLLED = 100  # steps; more make a large graph


def recurrent_layers(layers: Sequence[Any]) -> list[Any]:
    return [layer for layer in layers if hasattr(layer, "unroll") and not layer.unroll]


@contextmanager
def convertible(layers: Sequence[Any], steps: int | None) -> Iterator[None]:
    """Unrolls the layers meanwhile, which runs fastest; where there are too many `steps`, or None says that their
    number is free, they get a plain loop."""
    is_unrolled = steps is not None and steps <= MAX_UNROLLED
    looped = [] if is_unrolled else [layer for layer in layers if hasattr(getattr(layer, "cell", None), "units")]
    unrolled = [layer for layer in layers if layer not in looped]
    for layer in unrolled:
        layer.unroll = True
    for layer in looped:
        # On the instance, past Keras's own bookkeeping of attributes.
        object.__setattr__(layer, "inner_loop", _loop(layer))
    try:
        yield
    finally:
        for layer in unrolled:
            layer.unroll = False
        for layer in looped:
            object.__delattr__(layer, "inner_loop")


def _loop(layer: Any) -> Callable[..., Any]:
    """What the layer's `inner_loop` does, for an LSTM, GRU or SimpleRNN: the last output, all outputs, the states."""
    import keras
    import tensorflow as tf

    units = layer.cell.units

    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        if layer.go_backwards:
            sequences = tf.reverse(sequences, [1])
            mask = None if mask is None else tf.reverse(mask, [1])
        steps, rows = tf.shape(sequences)[1], tf.shape(sequences)[0]
        first = keras.tree.flatten(initial_state)

        def step(number: Any, last: Any, collected: Any, *states: Any) -> Any:
            output, following = layer.cell(tf.gather(sequences, number, axis=1), list(states), training=training)
            following = keras.tree.flatten(following)
            if mask is not None:
                counts = tf.expand_dims(tf.gather(mask, number, axis=1), 1)
                following = [tf.where(counts, new, old) for new, old in zip(following, states, strict=True)]
                output = tf.where(counts, output, tf.zeros_like(output) if layer.zero_output_for_mask else last)
            if layer.return_sequences:
                collected = tf.concat([collected, output[:, tf.newaxis]], axis=1)
            return number + 1, output, collected, *following

        shapes = [[], [None, units], [None, None, units], *([None, state.shape[-1]] for state in first)]
        _, last, collected, *states = tf.while_loop(
            lambda number, *_: number < steps,
            step,
            [tf.constant(0), tf.zeros([rows, units]), tf.zeros([rows, 0, units]), *first],
            shape_invariants=[tf.TensorShape(shape) for shape in shapes],
        )
        return last, collected, states

    return inner_loop
