"""What a run is asked to be: composed by Hydra, judged before anything costs, and what it may name."""

import yaml

PYTHON_LOADER = yaml.SafeLoader
# Hydra and OmegaConf read some seventy files a command with this loader; libyaml's reads the same ten times as fast.
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
