"""Where metrics go: terminal, JSON, TensorBoard, Weights & Biases and MLflow."""
