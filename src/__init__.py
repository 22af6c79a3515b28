"""Composable, resumable, fast training experiments with TensorFlow."""
