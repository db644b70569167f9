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
    places: list[tuple[Any, str, Callable[..., Any]]] = []
    unrolled = []
    for layer in layers:
        has_units = hasattr(getattr(layer, "cell", None), "units")
        if has_units and not hasattr(layer, "inner_loop"):
            # Of Keras 2: its kernel does not unroll, and what does takes the mask of a reversed layer the wrong way.
            places.append((layer, "call", _call(layer, _loop(layer, is_unrolled))))
        elif has_units and not is_unrolled:
            places.append((layer, "inner_loop", _loop(layer, is_unrolled)))
        else:
            unrolled.append(layer)
    for layer in unrolled:
        layer.unroll = True
    for layer, name, function in places:
        # On the instance, past Keras's own bookkeeping of attributes.
        object.__setattr__(layer, name, function)
    try:
        yield
    finally:
        for layer in unrolled:
            layer.unroll = False
        for layer, name, _ in places:
            object.__delattr__(layer, name)


def _call(layer: Any, inner_loop: Callable[..., Any]) -> Callable[..., Any]:
    """What `call` does in a layer of Keras 2."""

    def call(inputs: Any, mask: Any = None, training: bool = False, initial_state: Any = None) -> Any:
        sequences, first, _ = layer._process_inputs(inputs, initial_state, None)
        last, collected, states = inner_loop(sequences, first, mask[0] if isinstance(mask, list) else mask, training)
        output = collected if layer.return_sequences else last
        return [output, *states] if layer.return_state else output

    return call


def _loop(layer: Any, is_unrolled: bool) -> Callable[..., Any]:
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

        def step(number: Any, last: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
            output, following = layer.cell(tf.gather(sequences, number, axis=1), list(states), training=training)
            following = keras.tree.flatten(following)
            if mask is not None:
                counts = tf.expand_dims(tf.gather(mask, number, axis=1), 1)
                following = [tf.where(counts, new, old) for new, old in zip(following, states, strict=True)]
                output = tf.where(counts, output, tf.zeros_like(output) if layer.zero_output_for_mask else last)
            return output, following

        def collecting(number: Any, last: Any, collected: Any, *states: Any) -> Any:
            output, following = step(number, last, states)
            if layer.return_sequences:
                collected = tf.concat([collected, output[:, tf.newaxis]], axis=1)
            return number + 1, output, collected, *following

        last, states = tf.zeros([rows, units]), first
        if is_unrolled and sequences.shape[1]:
            outputs = []
            for number in range(sequences.shape[1]):
                last, states = step(number, last, states)
                outputs.append(last)
            return last, tf.stack(outputs, axis=1) if layer.return_sequences else None, states
        shapes = [[], [None, units], [None, None, units], *([None, state.shape[-1]] for state in first)]
        _, last, collected, *states = tf.while_loop(
            lambda number, *_: number < steps,
            collecting,
            [tf.constant(0), last, tf.zeros([rows, 0, units]), *first],
            shape_invariants=[tf.TensorShape(shape) for shape in shapes],
        )
        return last, collected, states

    return inner_loop
