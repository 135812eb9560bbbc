"""Recurrent layers, each taken as one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from proxlab.torch.tracing.products import Products
from proxlab.torch.tracing.values import Piece, Value

__all__ = ["Recurrent"]


class Recurrent(Products):
    """Follows LSTM, GRU and RNN."""

    def _recurrent(self, path: str, layer: nn.RNNBase, args: Any, output: Any) -> None:
        families, prefix = self.trace.families, f"{path}." if path else ""
        size, gates = layer.hidden_size, {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
        directions = 2 if layer.bidirectional else 1
        wide = layer.proj_size or size
        source = args[0].data if isinstance(args[0], nn.utils.rnn.PackedSequence) else args[0]
        known = self._value(source)
        started = len(args) > 1 and args[1] is not None
        if started:
            for t in tree_leaves(args[1]):
                if isinstance(t, Tensor):
                    self._keep(self._value(t).label, f"it is the first state of {path!r}")
        lead = self._mix(
            known.label, list(range(known.label.dim() - 1)), f"{path!r} sums it with others"
        ).reshape(-1)
        values = source.detach().reshape(-1, source.shape[-1]).t()
        taints = known.taint.reshape(-1, source.shape[-1]).t()
        states: list[Tensor] = []
        cells: list[Tensor] = []
        dirt: list[Tensor] = []
        for level in range(layer.num_layers):
            heads: list[Tensor] = []
            marks: list[Tensor] = []
            for d in range(directions):
                end = f"_l{level}" + ("_reverse" if d else "")
                names = [f"{prefix}{n}{end}" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                names = [n for n in names if n in self.held]
                self.trace.touched |= {*names, f"{prefix}weight_hr{end}"}
                cell = families.of(f"{path}:{end}", 0, size)
                for n in names:
                    rows = families.of(n, 0, gates * size)
                    self._join_pairs(rows, cell.repeat(gates), "")
                if started:
                    families.keep(cell.tolist(), f"{path!r} is given its first state")
                # A candidate state of zero keeps the hidden state, which starts at zero, at zero.
                rows = torch.cat([self.held[n].detach().reshape(gates * size, -1) for n in names], 1)
                candidate = rows.unflatten(0, (gates, size))[{4: 2, 3: 2, 1: 0}[gates]]
                stays = ~(candidate != 0).any(1) & torch.tensor(not started)
                ih, hh = self.held[names[0]], self.held[names[1]]
                bias = (names[2], torch.arange(gates * size)) if layer.bias else None
                count = gates * size
                ids = torch.arange(ih.numel()).reshape(ih.shape).t()
                self._read(
                    Piece(names[0], ids), ids, torch.arange(count), count, lead, values, taints, bias, True
                )
                hidden = cell
                mark = ~stays
                if layer.proj_size:
                    name = f"{prefix}weight_hr{end}"
                    hr = self.held[name]
                    ids = torch.arange(hr.numel()).reshape(hr.shape)
                    hidden = self._made(Piece(name, ids), ids)
                    zeros = torch.zeros(size, 1, dtype=torch.float64)
                    self._read(
                        Piece(name, ids), ids.t(), torch.arange(len(hr)), len(hr), cell, zeros,
                        mark[:, None], None, False,
                    )  # fmt: skip
                    mark = ((hr.detach() != 0) & mark).any(1)
                elif not started:
                    self.trace.makes.add((names[0], 0))
                ids = torch.arange(hh.numel()).reshape(hh.shape).t()
                own = torch.arange(wide)[:, None] + size * torch.arange(gates)
                if layer.proj_size:
                    others, places = ids, torch.arange(count)
                else:
                    keep = torch.ones_like(ids, dtype=torch.bool).scatter_(1, own, False)
                    others, places = ids[keep].reshape(wide, -1), torch.arange(count - gates)
                zeros = torch.zeros(wide, 1, dtype=torch.float64)
                if others.shape[1]:
                    self._read(
                        Piece(names[1], ids),
                        others,
                        places,
                        count,
                        hidden,
                        zeros,
                        mark[:, None],
                        None,
                        False,
                    )
                else:
                    self._join_pairs(families.of(names[1], 1, wide), hidden, "")
                heads.append(hidden)
                marks.append(mark)
                cells.append(cell)
                states.append(hidden)
                dirt.append(mark)
            lead, mark = torch.cat(heads), torch.cat(marks)
            values = torch.zeros(len(lead), 1, dtype=torch.float64)
            taints = mark[:, None]
        result, final = output
        data = result.data if isinstance(result, nn.utils.rnn.PackedSequence) else result
        self.known[data] = Value(lead.expand(data.shape), taints[:, 0].expand(data.shape).clone())
        ends = final if isinstance(final, tuple) else (final,)
        for t, labels, marks in zip(
            ends, (states, cells), (dirt, [torch.ones(size, dtype=torch.bool)] * len(cells)), strict=False
        ):
            lab, m = torch.stack(labels), torch.stack(marks)
            if t.dim() == 3:
                lab, m = lab[:, None], m[:, None]
            self.known[t] = Value(lab.expand(t.shape), m.expand(t.shape).clone())
        if self.record is not None:
            # Levels and directions side by side, since each may lose other units.
            pairs = zip((*states, *cells), (*dirt, *dirt), strict=True)
            parts = [Value(labels, marks) for labels, marks in pairs]
            self._note("recurrent", (), [source], [data, *parts])
