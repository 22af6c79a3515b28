"""What `--help` prints: the template of the config, filled in with the groups and their options.

Hydra itself would compose three times, and copy all options once a group, which takes seconds.
"""

from __future__ import annotations

import string
from pathlib import Path

from omegaconf import DictConfig

GROUPS = "APP_CONFIG_GROUPS"


def help_text(cfg: DictConfig) -> str | None:
    """The text, of a composed config with its `hydra` node; None where its template asks for more than the groups."""
    template = string.Template(cfg.hydra.help.template)
    if set(template.get_identifiers()) - {GROUPS}:
        return None
    groups: dict[str, set[str]] = {}
    for folder in (Path(source.path) for source in cfg.hydra.runtime.config_sources if source.schema == "file"):
        for path in folder.glob("*/**/*.yaml"):
            groups.setdefault(path.parent.relative_to(folder).as_posix(), set()).add(path.stem)
    own = {group: options for group, options in sorted(groups.items()) if group.partition("/")[0] != "hydra"}
    return template.substitute({GROUPS: "".join(f"{group}: {', '.join(sorted(own[group]))}\n" for group in own)})
