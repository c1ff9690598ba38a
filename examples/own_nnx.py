"""Your own NNX modules: a function of rngs makes one for each seed."""

import functools

from nets import NnxNet
from sample_data import COLOURS, pictures

import kdjax

teacher, student = functools.partial(NnxNet, 64), functools.partial(NnxNet, 8)
settings = {'labels': 0.05, 'steps': 300, 'seeds': 3, 'learning_rate': 1e-2, 'classes': COLOURS}
train, test = pictures('train', 2000), pictures('test', 500)
result = kdjax.distill(teacher, student, train, test, workdir='runs/own_nnx', **settings)
result.student.save('runs/own_nnx_student')
print(kdjax.load('runs/own_nnx_student', model=student).predict(test[0][:3]))
