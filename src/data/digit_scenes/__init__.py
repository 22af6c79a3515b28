"""Small colour scenes of real handwritten digits for segmentation, made here without a download."""
