"""`python -m tests.support.apart` is `python -m src.train` where all workers but the chief measure other numbers."""

from __future__ import annotations

from src.runs.workers import worker_number
from src.train import main
from src.training.learner import Supervised

if __name__ == "__main__":
    if worker_number():
        measured = Supervised.results
        Supervised.results = lambda self: {name: -value for name, value in measured(self).items()}
    main()
