"""python -m src.data: see src.inspection.command."""

from src.common.command import run_command
from src.inspection.command import main

if __name__ == "__main__":
    run_command(main)
