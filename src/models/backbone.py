"""A classifier on any network of keras.applications, which gets pixels as it was trained on them.

    from src.models.backbone import backbone

    model = backbone(input_shape=(96, 96, 3), num_classes=37, network="MobileNetV2", weights="imagenet", frozen=True)

`frozen` trains the head alone; a second run with `frozen=False` and `init_from` of the first goes on with all of it.
"""

from types import ModuleType
from typing import Any, Literal

import keras
from keras import layers

from src.common.ranges import Share, enforce_ranges


@enforce_ranges
def backbone(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    network: str = "MobileNetV2",
    weights: Literal["imagenet"] | None = None,
    frozen: bool = False,
    dropout: Share = 0.0,
) -> keras.Model:
    """Maps float32 images [N, H, W, C] in [0, 1], C 1 or 3, to float32 logits [N, num_classes].

    Args:
        network: a name of keras.applications, as `EfficientNetB0`.
        weights: None begins with random ones; `imagenet` downloads them once.
        frozen: do not train the network; its batch normalisation then keeps its averages.

    Raises:
        ValueError: there is no such network, or it takes no images of this size.
    """
    modules = [module for module in vars(keras.applications).values() if isinstance(module, ModuleType)]
    made = [module for module in modules if callable(getattr(module, network, None))]
    if not made:
        known = sorted({name for module in modules for name in vars(module) if name[:1].isupper()})
        raise ValueError(f"model.network is {network!r}; keras.applications has {', '.join(known)}")
    build: Any = getattr(made[0], network)
    x = images = keras.Input(input_shape, name="images")
    if input_shape[-1] == 1:
        x = layers.Concatenate(name="colours")([x, x, x])
    x = made[0].preprocess_input(x * 255.0)
    body = build(include_top=False, weights=weights, input_shape=(*input_shape[:2], 3), pooling="avg")
    body.trainable = not frozen
    x = body(x)
    x = layers.Dropout(dropout, name="dropout")(x) if dropout else x
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="backbone")
