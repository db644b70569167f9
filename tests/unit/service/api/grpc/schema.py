"""The services' messages as classes of Google's library, made of the descriptors that the service itself serves."""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from service.api.grpc.messages import descriptors


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    # One of its own: TensorFlow's classes have the same names.
    pool = descriptor_pool.DescriptorPool()
    for content in descriptors().files.values():
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(content))
    return pool


def message(name: str) -> Any:
    """A class. Full names; "tensorflow.serving." may be left out."""
    full = name if "." in name else f"tensorflow.serving.{name}"
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full))
