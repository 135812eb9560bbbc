"""A residual network, for images of clothing."""

from analysis.deep.fetch import FASHION_MNIST
from analysis.deep.images import fashion_mnist
from analysis.deep.networks import resnet
from analysis.deep.tasks.base import Budget, Task

RESNET = Task(
    "resnet",
    "ResNet on Fashion-MNIST",
    (FASHION_MNIST,),
    fashion_mnist,
    lambda _: resnet(),
    {"quick": Budget(30_000, 2), "full": Budget(None, 8)},
    groups={"exclude": "0"},
    pictured=("1.conv1.weight", "1.conv2.weight", "2.conv1.weight", "2.conv2.weight", "3.conv2.weight"),
)
