"""Predicts with a trained model: test-time augmentation, tiles and fusion."""
