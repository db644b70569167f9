"""gRPC: TensorFlow Serving's services, the Open Inference Protocol's, health and reflection."""
