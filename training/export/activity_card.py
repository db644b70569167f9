"""The model card of `activity`."""

from training.export import classifier_card
from training.export.classifier_card import Metrics


def card(metrics: Metrics, twin: str) -> str:
    candidates = "\n".join(
        f"| {each['filters']} | {'altered' if each['altered'] else 'as recorded'} | {each['accuracy']:.3f} "
        f"| {each['loss']:.3f} | {'chosen' if each['chosen'] else ''} |"
        for each in metrics["cross_validation"]
    )
    chosen = next(each for each in metrics["cross_validation"] if each["chosen"])
    filters = chosen["filters"]
    trained_on = (
        "20 copies of each recording, begun at another moment, up to 15 % stronger or weaker, with a little noise"
        if chosen["altered"]
        else "20 equal copies of each recording"
    )
    tuned = ", ".join(
        f"{name} below {limit:g}" if limit is not None else f"else {name}" for name, limit in metrics["tuned_rules"]
    )
    rules, tuned_rules = metrics["rules_accuracy"], metrics["tuned_rules_accuracy"]
    right = round(metrics["accuracy"] * metrics["test_examples"])
    return f"""# activity, version {metrics["version"]}

Tells by ten seconds of a smart watch's motion whether its wearer stands, runs, walks or plays badminton.
**{right} of {metrics["test_examples"]}** test recordings right.

- **Input** `motion`: float32 [-1, 100, 6], a step every tenth of a second: acceleration along x, y and z, then
  rotation about them, in the sensors' own units.
  **Output** `probabilities`: float32 [-1, 4], in the order of the table below; the signature `scored` gives
  `outlier_score` [-1] too.
- **Intended use:** demonstrations, and as an example of a model whose input is a time series. Not for medicine, nor
  for anything that depends on it.
- **Data:** BasicMotions of the UEA archive (Bagnall et al., 2018): four students recorded each activity five times.
  Read from the package `aeon`, BSD 3-Clause licence; the files name no licence of their own.
- **Split:** the archive's: {metrics["training_examples"]} recordings to train, {metrics["test_examples"]} to test,
  once, after everything was chosen. Five stratified folds of the training recordings, each held out in turn, stand
  in for a validation split.
- **Architecture:** normalisation by the training recordings' mean and deviation per channel,
  Conv1D({filters}, 5, relu), MaxPooling1D(2), Conv1D({2 * filters}, 5, relu), mean over time, Dropout(0.3),
  Dense(4, softmax); {metrics["parameters"]:,} parameters.
- **Settings:** Adam, learning rate {metrics["learning_rate"]:g} falling to 0 along a cosine,
  {metrics["epochs"]} epochs of batches of {metrics["batch_size"]}, seed {metrics["seed"]};
  {trained_on}.
- **Cost:** {metrics["seconds"]} s on {metrics["cores"]} cores, cross-validation included.
- **Twin:** {twin}; the inputs are the training recordings, each begun at 25 moments.
- **Sizes:** {classifier_card.sizes(metrics)}.

{classifier_card.results(metrics, "recordings", validation="validation (each recording by a fold's network)")}

In the learning curve, training is the last fit, on all training recordings; validation is the mean of the five folds.

{classifier_card.confidence(metrics, "recordings")}

The folds' held-out recordings take the part of a validation split: 40 tell temperature and limit only roughly. The
inputs to be flagged are made from the training recordings, each begun at 25 moments.

## What it is measured against

Rules by speed, here the mean length of the acceleration vector:

| | test | cross-validation |
|---|---|---|
| by hand: Standing below 1, Walking below 4, Running below 12, else Badminton | {rules:.3f} | – |
| tuned on the training recordings: {tuned} | {tuned_rules:.3f} | {metrics["tuned_rules_validation_accuracy"]:.3f} |
| this model | {metrics["accuracy"]:.3f} | {metrics["validation_accuracy"]:.3f} |

Numbers that come to mind are wrong, even in their order: a runner's arm moves more than a badminton player's.
With order and numbers taken from recordings they do about as well as this model: that is learning already, if of three
numbers only, and four activities as different as these need hardly more. What the model adds is that nobody had to find
the measure first.

## How the settings were chosen

By cross-validation on the training recordings; most right wins, of equals the lowest loss.

| filters | copies | accuracy | loss | |
|---|---|---|---|---|
{candidates}

## Known failures and limits

Errors of the test:

{classifier_card.errors(metrics, "recordings")}

Beyond the test:

- Four people and one kind of watch. The archive does not say who recorded what, so the same people may well be in
  both splits: with a stranger or another watch it may do worse.
- The test is small: one more error is {100 / metrics["test_examples"]:g} points of accuracy.
- It has no "something else": whoever cycles or sleeps gets one of the four; the outlier score may tell, but nothing
  of the kind was at hand to try.
- Ten seconds of one activity. What a change from one to another gives was not tried.
"""
