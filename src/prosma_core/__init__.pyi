# What type checkers see of the names that __init__.py loads late.
from prosma_core.api import ProximalGate as ProximalGate
from prosma_core.api import UNet as UNet
from prosma_core.api import evaluate as evaluate
from prosma_core.api import inspect as inspect
from prosma_core.api import load_model as load_model
from prosma_core.api import read_image as read_image
from prosma_core.api import segment as segment
from prosma_core.api import train as train
from prosma_core.api import what_if as what_if
from prosma_core.api import write_labels as write_labels

__version__: str
