"""The default trainer: a small convolutional network."""

from kfp import dsl

from components.lightweight import component
from components.shared import describe, log_notes, log_numbers


@component
def train(
    data: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    label: str = "label",
    epochs: int = 4,
    batch_size: int = 64,
    learning_rate: float = 0.001,
    seed: int = 0,
):
    """Trains a small convolutional network on labelled images and exports it as a SavedModel.

    Args:
        data: A .npz file with two arrays: the images, [n, height, width], with channels last, or flat where they are
            square, under the key that the model's input is to have, and the classes, [n] whole numbers, under LABEL.
        label: The key of the classes.
        epochs: How often each image is seen.
        batch_size: Images in one step.
        learning_rate: Of Adam.
        seed: Of the first weights and the order of the images; the same seed on the same machine gives the same model.

    Returns:
        model: A SavedModel; its signature takes the images by their key and answers `scores`, a share for each class.
        metrics: The accuracy and the loss on the training data.
    """
    import math
    import sys

    import numpy as np

    try:
        with np.load(data.path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError) as error:
        sys.exit(f"tfslim: {data.path}: no .npz file of numbers: {error}")
    inputs = [name for name in found if name != label]
    if label not in found or len(inputs) != 1:
        sys.exit(f"tfslim: {data.path}: wants {label!r} and one array of images, has {sorted(found) or 'nothing'}")
    key, classes = inputs[0], found[label]
    images = found[key].astype(np.float32)
    if classes.ndim != 1 or len(classes) != len(images) or not np.issubdtype(classes.dtype, np.integer):
        wanted = f"[{len(images)}] of whole numbers"
        sys.exit(f"tfslim: {data.path}: {label!r} has to be {wanted}, is {classes.dtype} {classes.shape}")
    if len(classes) < 2 or classes.min() < 0 or not np.isfinite(images).all():
        sys.exit(f"tfslim: {data.path}: wants two images or more, finite, of classes from 0 on")
    side = math.isqrt(math.prod(images.shape[1:]))
    if images.ndim == 2 and side * side != images.shape[1]:
        sys.exit(f"tfslim: {data.path}: {key!r} is {images.shape}; flat images have to be square")
    shape = (side, side, 1) if images.ndim == 2 else (*images.shape[1:], *[1] * (4 - images.ndim))
    if len(shape) != 3 or min(shape[:2]) < 8:
        sys.exit(f"tfslim: {data.path}: {key!r} is {images.shape}; wants images of 8 x 8 pixels or more")

    if seed < 0 or epochs < 1 or batch_size < 1:
        sys.exit(f"tfslim: epochs {epochs} and batch_size {batch_size} are 1 or more, seed {seed} is 0 or more")

    import keras

    keras.utils.set_random_seed(seed)
    h = given = keras.Input(images.shape[1:], name=key)
    h = keras.layers.Reshape(shape)(h)
    for filters in (32, 64):
        h = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(h)
        h = keras.layers.MaxPooling2D()(h)
    h = keras.layers.Dense(128, activation="relu")(keras.layers.Flatten()(h))
    scores = keras.layers.Dense(int(classes.max()) + 1, activation="softmax")(h)
    network = keras.Model({key: given}, {"scores": scores})
    network.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss={"scores": "sparse_categorical_crossentropy"},
        metrics={"scores": ["accuracy"]},
    )

    class Tell(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            log_notes([f"epoch {epoch + 1} of {epochs}: accuracy {logs['accuracy']:.4f}, loss {logs['loss']:.4f}"])

    told = network.fit(
        {key: images}, {"scores": classes}, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[Tell()]
    )
    network.export(model.path, verbose=False)
    log_numbers(metrics, {name: values[-1] for name, values in told.history.items()})
    log_numbers(metrics, {"examples": len(images), "parameters": network.count_params()})
    describe(model, "SavedModel", seed=seed, examples=len(images))
