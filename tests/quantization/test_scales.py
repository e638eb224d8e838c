"""Which constants are scales that codes in the graph are multiplied with."""

import numpy as np
import tensorflow as tf

from tests.graphs import building, view
from tfslim_core.quantization.scales import scales_of

v1 = tf.compat.v1


def test_scales_are_what_multiplies_constant_codes():
    with building() as g:
        image = v1.placeholder(tf.uint8, [None, 4], "image")
        ids = v1.placeholder(tf.int64, [None], "ids")
        codes = tf.constant(np.ones((9, 4), np.int8), name="codes")
        tf.cast(codes, tf.float32) * tf.cast(tf.constant(np.ones((1, 4), np.float16), name="whole"), tf.float32)
        rows = tf.gather(tf.constant(np.ones((9, 1), np.float32), name="by_row"), ids)
        rows * tf.cast(tf.gather(codes, ids), tf.float32)
        tf.cast(image, tf.float32) * tf.constant(np.ones(4, np.float32), name="of_pixels")
        tf.cast(codes, tf.float32) * tf.reduce_sum(tf.cast(image, tf.float32))
    assert scales_of(view(g, [image, ids])) == {"whole", "by_row"}
