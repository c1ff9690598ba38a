"""A teacher of yours in a checkpoint of Orbax; .msgpack, .npz, safetensors and torch files alike."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp
from nets import Net
from sample_data import COLOURS, pictures

import kdjax

train, test = pictures('train', 2000), pictures('test', 500)
variables = Net(64).init(jax.random.key(0), train[0][:1] / 255.0)  # yours is trained
with ocp.StandardCheckpointer() as checkpointer:
  checkpointer.save(Path('runs/teacher').absolute(), variables, force=True)
teacher = Net(64), kdjax.weights('runs/teacher')
kdjax.distill(teacher, Net(8), train, test, classes=COLOURS, steps=300, workdir='runs/orbax_checkpoint')
