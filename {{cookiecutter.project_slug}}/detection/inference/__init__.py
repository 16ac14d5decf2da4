"""Predicts with a trained model: test-time augmentation and fusion."""
