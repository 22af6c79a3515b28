"""What runs are trained on."""

SPLITS = ("train", "val", "test")
