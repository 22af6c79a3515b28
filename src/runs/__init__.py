"""What a run is, where it lies and what became of it. No TensorFlow in here: it answers in well under a second."""

ID_DIGITS = 8  # of a config's hash, which a run's folder ends with
