"""One update of alphas and weights, or none if something is not finite."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.resumable.loop import StepReport
from pocketnet_fast.search.architecture import architecture_gradient
from pocketnet_fast.search.latency import ExpectedLatency
from pocketnet_fast.search.network import SearchNetwork
from pocketnet_fast.search.recipe import SearchRecipe
from pocketnet_fast.training.inputs import network_input

Batch = tuple[Tensor, Tensor]


class SearchStepper:
    """Makes steps: first the alphas, then the weights (DARTS, algorithm 1).

    A step whose loss or gradients are not finite changes nothing.

    Args:
        network: In training mode.
        weights: SGD over its weights.
        alphas: Adam over its alphas.
        recipe: Order, clipping, what latency counts.
        processes: Over which gradients are averaged.
        latency: None if latency does not count.
    """

    def __init__(
        self,
        network: SearchNetwork,
        weights: torch.optim.Optimizer,
        alphas: torch.optim.Optimizer,
        recipe: SearchRecipe,
        processes: Processes,
        latency: ExpectedLatency | None,
    ) -> None:
        self.network, self.weights, self.alphas = network, weights, alphas
        self.rules, self.clip_norm = recipe.architecture, recipe.weights.clip_norm
        self.processes, self.latency = processes, latency
        self.bf16 = recipe.run.precision == "bf16"

    def __call__(
        self, train_batch: Batch, val_batch: Batch | None, rate: float, stop: Callable[[], bool]
    ) -> StepReport:
        """Make a step.

        Args:
            train_batch: uint8 N,112,112,3 RGB, int64 N.
            val_batch: Likewise of the other half; None leaves the alphas as they are.
            rate: Learning rate of the weights.
            stop: Whether this process has been asked to stop; the report says whether any has.
        """
        train = self.prepared(train_batch)
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        values = [alpha.detach().clone() for alpha in self.network.alphas().values()]
        state = copy.deepcopy(self.alphas.state_dict())
        finite = True
        if val_batch is not None:
            finite = self._step_alphas(train, self.prepared(val_batch), rate)
        loss, correct, norm = self._differentiate(train)
        found = torch.stack([loss, correct, torch.tensor(float(not finite)), torch.tensor(float(stop()))])
        mean_loss, accuracy, bad, stops = self.processes.sum_(found).tolist()
        problem = None
        if bad:
            problem = "a gradient of the alphas is not finite"
        elif not math.isfinite(mean_loss):
            problem = "the loss is not finite"
        elif not math.isfinite(norm):
            problem = "a gradient of the weights is not finite"
        if problem is not None:
            self._undo(buffers, values, state)
            return StepReport({}, math.nan, problem, stops > 0)
        for group in self.weights.param_groups:
            group["lr"] = rate
        self.weights.step()
        parts = {"loss": mean_loss / self.processes.ranks, "accuracy": accuracy / self.processes.ranks}
        if self.latency is not None:
            with torch.no_grad():
                parts["latency"] = float(self.latency(self.network))
        return StepReport(parts, norm, None, stops > 0)

    def prepared(self, batch: Batch) -> Batch:
        """A loader's batch as the network takes it."""
        device = self.processes.device
        pixels = batch[0].to(device, non_blocking=True)
        return network_input(pixels, self.network.input_spec), batch[1].to(device)

    def _step_alphas(self, train: Batch, val: Batch, rate: float) -> bool:
        """Whether the gradient was finite; the alphas are left alone where it was not."""
        gradient = architecture_gradient(
            self.network,
            train,
            val,
            xi=rate,
            optimizer=self.weights,
            order=self.rules.order,
            hessian=self.rules.hessian,
            average=self.processes.average_,
        )
        alphas = self.network.alphas()
        if self.latency is not None:
            slopes = torch.autograd.grad(self.latency(self.network), [*alphas.values()])
            for name, slope in zip(alphas, slopes, strict=True):
                gradient[name] = gradient[name] + self.rules.latency_weight * slope
        if not all(bool(value.isfinite().all()) for value in gradient.values()):
            return False
        for name, alpha in alphas.items():
            alpha.grad = gradient[name]
        self.alphas.step()
        self.alphas.zero_grad(set_to_none=True)
        return True

    def _differentiate(self, train: Batch) -> tuple[Tensor, Tensor, float]:
        """Loss and accuracy, on the CPU, and the norm of the gradients, which are averaged and clipped."""
        weights = list(self.network.weights().values())
        with torch.autocast(self.processes.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network(train[0]).float()
        loss = cross_entropy(logits, train[1])
        gradients = torch.autograd.grad(loss, weights)
        self.processes.average_(gradients)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        norm = nn.utils.clip_grad_norm_(weights, self.clip_norm or math.inf)
        accuracy = (logits.detach().argmax(1) == train[1]).float().mean()
        return loss.detach().cpu(), accuracy.cpu(), float(norm)

    @torch.no_grad()
    def _undo(self, buffers: list[Tensor], values: list[Tensor], state: dict[str, object]) -> None:
        self.weights.zero_grad(set_to_none=True)
        for buffer, kept in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(kept)
        for alpha, kept in zip(self.network.alphas().values(), values, strict=True):
            alpha.copy_(kept)
        self.alphas.load_state_dict(state)
