"""Checkpoints of ShuffleNetV2 in the names of RepDistiller, to models.vision.cifar_shufflenet_v2."""

from kdjax.pretrained import cifar_shufflenet_v1

convert = cifar_shufflenet_v1.convert
