"""The targets that the measurements of speed are held against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What a row is held against.

    Attributes
    ----------
    title : str
        What is measured.
    value : float
        The target.
    at_least : bool
        Whether the target is a lower bound.
    unit : str
        Follows the number.
    """

    title: str
    value: float
    at_least: bool = False
    unit: str = "×"

    def met(self, measured: float) -> bool:
        """Whether a measurement meets the target."""
        return measured >= self.value if self.at_least else measured <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g} {self.unit}"


TARGETS = {
    "contiguous": Target("group lasso, groups contiguous / multiply", 2.5),
    "strided": Target("group lasso, groups along the other axis / multiply", 6.0),
    "contiguous-roofline": Target("group lasso, groups contiguous / roofline", 2.0),
    "strided-roofline": Target("group lasso, groups along the other axis / roofline", 2.5),
    "mcp": Target("group MCP / group lasso", 1.5),
    "solve": Target("solve with brackets / prox", 1.5),
    "certify": Target("certify / prox", 3.0),
    "memory": Target("peak extra memory of prox(out=z), of the input", 1.0, unit="%"),
    "proxssi-columns": Target("ProxSSI / prox, groups along columns", 30.0, at_least=True),
    "proxssi-rows": Target("ProxSSI / prox, groups along rows", 80.0, at_least=True),
    "proxssi-input channels": Target("ProxSSI / prox, per input channel", 30.0, at_least=True),
    "proxssi8": Target("ProxSSI stopped at 8 iterations / prox", 6.0, at_least=True),
    "ramda": Target("RAMDA's inner solver / prox", 10.0, at_least=True),
    "ramda-error": Target("error of RAMDA's inner solver / error of prox", 1e4, at_least=True),
    "step-fused-rows": Target("ProxAdamW's step / PyTorch's fused AdamW, filters and rows", 1.5),
    "step-fused-columns": Target("ProxAdamW's step / PyTorch's fused AdamW, channels and columns", 2.2),
    "step-roofline": Target("ProxAdamW's step / roofline", 2.5),
    "step-many": Target("ProxAdamW's step / PyTorch's fused AdamW, 200 parameters of 64 × 64", 3.0),
    "step-kinds": Target("step of other groups and penalties / step of columns, per element", 1.5),
    "step-default": Target("ProxAdamW's step / PyTorch's AdamW as it comes", 0.8),
    "step-proxssi": Target("ProxSSI's step / ProxAdamW's step", 20.0, at_least=True),
    "flat": Target("slowest / fastest time per element, 1e5 to 1e8 elements", 1.5),
    "iterations-adam": Target("most Newton iterations on Adam metrics", 8.0, unit=""),
    "iterations-any": Target("most Newton iterations on adversarial input", 24.0, unit=""),
    "import": Target("import proxlab after numpy", 35.0, unit="ms"),
    "first-warm": Target("first prox in a fresh process, warm cache", 0.3, unit="s"),
    "first-cold": Target("first prox in a fresh process, cold cache", 12.0, unit="s"),
    "first-log": Target("log messages that announce the compilation", 1.0, at_least=True, unit=""),
}
