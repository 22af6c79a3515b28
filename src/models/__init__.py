"""Architectures, one a file.

    from src.models.unet import unet

    model = unet(input_shape=(48, 48, 3), num_classes=11)
    logits = model(images)  # float32 [N, 48, 48, 3] in [0, 1] -> float32 [N, 48, 48, 11]

A model is a function of `input_shape` (H, W, C) and `num_classes`, plus its own options, all keyword-only.
It returns a built `keras.Model` that takes float32 images [N, H, W, C] in [0, 1] and returns float32 logits:
[N, num_classes] to classify, [N, H, W, num_classes] to segment. Whatever else the architecture wants of its
input (another range, say) happens inside. Layers have fixed names, so that a checkpoint finds them again.

To add a model, write one function in one file here and one file in `conf/model/`.
"""
