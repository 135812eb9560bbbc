"""A network of five convolutions, for images of clothing."""

from analysis.deep.fetch import FASHION_MNIST
from analysis.deep.images import fashion_mnist
from analysis.deep.networks import vgg
from analysis.deep.tasks.base import Budget, Task

VGG = Task(
    "vgg",
    "VGG on Fashion-MNIST",
    (FASHION_MNIST,),
    fashion_mnist,
    lambda _: vgg(),
    {
        "tiny": Budget(1024, 1, 1000),
        "quick": Budget(45_000, 2),
        "paper": Budget(45_000, 2),
        "full": Budget(None, 8),
    },
    groups={"exclude": "0"},
    pictured=("4.weight", "8.weight", "12.weight", "15.weight", "19.weight", "21.weight"),
)
