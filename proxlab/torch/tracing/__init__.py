"""Trace which channels of a network belong together, which parameters make and read them, what is constant.

A network is run once as it is, and beside every tensor two more are computed: a *label* for each element,
the channel that it belongs to, and a *taint*, whether it depends on the network's input. What only moves
elements (views, slices, concatenations) is done to labels and taints as to the values. What computes element
by element couples the channels that meet; so does what computes channels from one another: norms, softmax,
sorting, sums.
A matrix product or convolution with a parameter makes new channels, one for each slice of the parameter
across its output axis, and reads the old ones by its other axis. Everything that is not known to be one of
these keeps its channels. Only slices of parameters are channels: a channel can be removed by removing the
slices that are coupled with it.

The operations are those that PyTorch dispatches (:mod:`torch.utils._python_dispatch`), so that it does not
matter how a network is written.
"""

from __future__ import annotations

from proxlab.torch.tracing.dropout import without_dropout
from proxlab.torch.tracing.knowledge import Untraceable
from proxlab.torch.tracing.read import Read
from proxlab.torch.tracing.trace import Trace
from proxlab.torch.tracing.tracer import LIMIT_OPERATIONS, LIMIT_SECONDS

__all__ = ["LIMIT_OPERATIONS", "LIMIT_SECONDS", "Read", "Trace", "Untraceable", "without_dropout"]
