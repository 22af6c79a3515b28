"""Names of `_target_`s that have moved: configs that say the old one mean the new one, and ids stay those of the old.

new_name("src.old.Shift")   # what the gate imports
old_name("src.new.Shift")   # what a run's identity counts
"""

# Old path: the path today. What moves again is added once more, and its earlier entries point to where it is now.
MOVED: dict[str, str] = {
    "src.data.image_folder.image_folder": "src.data.images.folders.image_folder",
    "src.data.transforms.Flip": "src.data.images.transforms.Flip",
    "src.data.transforms.Shift": "src.data.images.transforms.Shift",
    "src.data.transforms.Brightness": "src.data.images.transforms.Brightness",
    "src.data.transforms.Noise": "src.data.images.transforms.Noise",
    "src.data.image_data.ImageData": "src.data.images.image_data.ImageData",
    "src.data.tfds_sets.tfds_images": "src.data.images.tfds_sets.tfds_images",
}


def new_name(name: str) -> str:
    """Where what this name means is found today."""
    return MOVED.get(name, name)


def old_name(name: str) -> str:
    """The first name that the same thing ever had."""
    today = new_name(name)
    return next((old for old, new in MOVED.items() if new == today), name)
