"""The scalars of TensorBoard's event files as JSON, read as TensorBoard itself reads them."""
import json
import sys

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

found = EventAccumulator(sys.argv[1], tensor_size_guidance={"scalars": 0})
found.Reload()
scalars = {}
for tag in found.Tags()["tensors"]:
    events = found.Tensors(tag)
    scalars[tag] = [[e.step, float(tensor_util.make_ndarray(e.tensor_proto).item())] for e in events]
print(json.dumps(scalars))
