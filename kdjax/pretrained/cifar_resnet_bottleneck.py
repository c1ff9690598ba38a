"""Checkpoints of ResNet-50 for images of 32×32, to models.vision.cifar_resnet_bottleneck."""

from kdjax.pretrained import cifar_resnet

convert = cifar_resnet.convert
