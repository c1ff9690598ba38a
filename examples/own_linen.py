"""Your own Linen modules, as they are: a large one teaches a small one, and two layers are paired."""

from nets import Net
from sample_data import COLOURS, pictures

import kdjax

methods = {'kd': {'temperature': 4.0}, 'fitnet': {'weight': 1.0, 'student': 'conv_1', 'teacher': 'conv_1'}}
settings = {'labels': 0.05, 'steps': 300, 'seeds': 3, 'learning_rate': 1e-2, 'classes': COLOURS}
train, test = pictures('train', 2000), pictures('test', 500)
result = kdjax.distill(Net(64), Net(8), train, test, methods=methods, workdir='runs/own_linen', **settings)
print(result.student.predict(test[0][:3]), result.report)
