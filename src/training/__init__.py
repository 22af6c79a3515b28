"""The core: what a step computes, the loop, and the state that checkpoints hold. It knows no config and no run."""
