"""A detector as one ONNX file: written from a model, and run without PyTorch and detectron2."""
