"""What a run is, where it lies and what became of it. No TensorFlow in here: it answers in well under a second."""
