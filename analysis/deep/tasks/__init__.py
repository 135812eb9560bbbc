"""The tasks of the studies, one a file: to add one, write its file and add it to the list of a study."""

from analysis.deep.tasks.base import Budget, Task
from analysis.deep.tasks.encoder import ENCODER
from analysis.deep.tasks.minilm import MINILM_ENCODER
from analysis.deep.tasks.resnet import RESNET
from analysis.deep.tasks.vgg import VGG

#: Of a study of images and of one of texts; the last of each with all methods.
IMAGES: tuple[Task, ...] = (RESNET, VGG)
TEXTS: tuple[Task, ...] = (MINILM_ENCODER, ENCODER)

__all__ = ["ENCODER", "IMAGES", "MINILM_ENCODER", "RESNET", "TEXTS", "VGG", "Budget", "Task"]
