"""The model card of an imported version, from the template cards/imported.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from service.tensors.signature import Signature, TensorSpec
from training.export import model_card


def text(
    metrics: Mapping[str, Any],
    signatures: Mapping[str, Signature],
    labels: Sequence[str],
    lines: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    values = dict(metrics) | {
        "tensors": "\n".join(_tensors(name, signature) for name, signature in signatures.items()),
        "labels_line": f"- **Labels:** {', '.join(labels)}\n" if labels else "",
        "lines": "\n".join(f"- **{title}:** {line}" for title, line in lines.items()),
        "notes": "".join(f"- {note}\n" for note in notes),
    }
    return model_card.fill("imported", values)


def _tensors(name: str, signature: Signature) -> str:
    inputs, outputs = (
        ", ".join(f"`{key}` {_type(spec)}" for key, spec in specs.items())
        for specs in (signature.inputs, signature.outputs)
    )
    return f"- **{name}:** {inputs} → {outputs}"


def _type(spec: TensorSpec) -> str:
    shape = "any shape" if spec.shape is None else str(list(spec.shape))
    return f"{spec.dtype.removeprefix('DT_').lower()} {shape}"
