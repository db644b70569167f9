"""One Dense(1) unit learns y = 3x + 1 from six points.

Result: weight 3.000, bias 1.000; the exported model answers 31.000 for x = 10.
Cost: 3 s of fitting and 13 s in all on two cores, most of it TensorFlow starting and the conversion.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.serving_config import Sample
from training.config import Config as BaseConfig
from training.console import load_tensorflow
from training.export import model_card

NAME = "regression"
X = np.array([-1, 0, 1, 2, 3, 4], np.float32)
Y = np.array([-2, 1, 4, 7, 10, 13], np.float32)
NEW_X = 10.0

# Beyond the training range and x = 10.
PROOF_INPUTS = np.linspace(-20, 20, 4001, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    epochs: int = 200
    batch_size: int = 6  # all points: the loss falls straight to zero
    learning_rate: float = 0.1  # 0.17 is where full-batch descent on these points starts to diverge


def build() -> Any:
    import keras  # here and below: `--help` and the defaults need no TensorFlow

    # The reshapes let a request say 10.0 where Dense wants [10.0].
    return keras.Sequential(
        [
            keras.Input((), name="x"),
            keras.layers.Reshape((1,)),
            keras.layers.Dense(1),
            keras.layers.Reshape(()),
        ]
    )


def run(config: Config) -> None:
    load_tensorflow()
    import keras

    from training.evaluation import plots, reference
    from training.export import twin, version
    from training.export.saved_model import keras_graph
    from training.fit import train

    train.make_repeatable(config.seed)
    model = build()
    model.compile(keras.optimizers.SGD(config.learning_rate), loss="mean_squared_error")
    fit = train.fit(model, train.batches(X, Y, config.batch_size), epochs=config.epochs)

    weight, bias = (float(values.item()) for values in model.get_weights())
    answer = float(model(np.array([NEW_X], np.float32))[0])
    metrics = {
        "loss": fit.history["loss"][-1],
        "weight": weight,
        "bias": bias,
        "prediction_for_10": answer,
        "parameters": model.count_params(),
        "training_examples": len(X),
        **train.settings_and_cost(config, fit.seconds, fit.cores),
    }

    def pictures(folder: Path) -> None:
        plots.learning_curve(fit.history, folder / "learning_curve.png", log=True)
        plots.fitted_line(X, Y, weight, bias, NEW_X, folder / "fitted_line.png")

    exported = version.export(
        version.Package(
            name=NAME,
            graph=keras_graph(model, "x", "y"),
            twin=twin.Plan(inputs=PROOF_INPUTS),
            metrics=metrics,
            reference=reference.reference({"x": X}),
            card=card,
            pictures=pictures,
            example={"instances": [NEW_X]},
            samples=lambda _assets: tuple(
                Sample(instance=x, expected=y) for x, y in zip(X.tolist(), Y.tolist(), strict=True)
            ),
        ),
        config.output,
    )
    exported.print_summary(
        version.curl(exported.version_dir, "predict", f'{{"instances": [{NEW_X}]}}'),
        Fitted=f"y = {weight:.4f}·x + {bias:.4f}, loss {metrics['loss']:.2g}",
        Answer=f"{answer:.4f} for x = {NEW_X:g}",
    )


def card(metrics: dict[str, Any], twin: str) -> str:
    ends = {"first_input": PROOF_INPUTS[0], "last_input": PROOF_INPUTS[-1]}
    return model_card.fill("regression", model_card.values(metrics, twin) | {"new_x": NEW_X, **ends})
