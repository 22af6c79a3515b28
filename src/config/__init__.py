"""What a run is asked to be: composed by Hydra, judged before anything costs, and what it may name."""
