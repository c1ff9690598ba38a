"""A number to predict, the brightness of a picture; the student learns from the teacher's numbers too."""

from nets import Net
from sample_data import pictures

import kdjax

(images, _), (test_images, _) = pictures('train', 2000), pictures('test', 500)
train, test = (images, images.mean((1, 2, 3)) / 255), (test_images, test_images.mean((1, 2, 3)) / 255)
settings = {'task': 'regression', 'methods': {'logit_mse': {}}, 'steps': 300, 'seeds': 3}
kdjax.distill(Net(64, 1), Net(8, 1), train, test, workdir='runs/regression', **settings)
