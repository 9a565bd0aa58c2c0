"""One update of the weights from the batches of a step, or none if something is not finite."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from pocketnet_fast.data.augment import mix_batch
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.resumable.loop import StepReport
from pocketnet_fast.training.inputs import float_images, network_input
from pocketnet_fast.training.maps import MapObjective, Maps
from pocketnet_fast.training.objective import MarginObjective
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.teacher import Teacher

Batch = tuple[Tensor, Tensor]


class Stepper:
    """Makes steps: forward, backward, clipping, the optimiser.

    A step whose embeddings, loss or gradients are not finite changes nothing: neither weights, nor the
    optimiser's state, nor running statistics.

    Args:
        network: The backbone, or a ``MapPupil`` with it; wrapped for several processes if there are several.
        spec: Its input.
        objective: From embeddings, labels and the teacher's embeddings to the loss and its parts.
        optimizer: Over the parameters of both.
        teacher: None if the objective needs none.
        recipe: Precision, clipping, mixing.
        processes: The processes of the run.
        map_objective: With a ``MapPupil``.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: InputSpec,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        teacher: Teacher | None,
        recipe: Recipe,
        processes: Processes,
        map_objective: MapObjective | None = None,
    ) -> None:
        self.map_objective = map_objective
        self.network, self.spec, self.objective = network, spec, objective
        self.optimizer, self.teacher, self.processes = optimizer, teacher, processes
        self.clip_norm = recipe.optimizer.clip_norm
        self.bf16 = recipe.run.precision == "bf16"
        self.mixup, self.cutmix = recipe.distillation.mixup, recipe.distillation.cutmix
        self._weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._head = list(objective.parameters())
        self._buffers = list(network.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]
        self._beside = ThreadPoolExecutor(1, "teacher")
        self._mixing = torch.Generator()
        self._generators = [self._mixing]
        if isinstance(objective, MarginObjective):
            self._generators.append(objective.head.generator)

    def __call__(
        self, batches: Sequence[Batch], rate: float, seed: int, stop: Callable[[], bool]
    ) -> StepReport:
        """Make a step.

        Args:
            batches: (uint8 N,112,112,3 RGB, int64 N), whose gradients are averaged.
            rate: Learning rate.
            seed: The seed of what is random in this step on this process.
            stop: Whether this process has been asked to stop; the report says whether any has.
        """
        torch.manual_seed(seed)
        for generator in self._generators:
            generator.manual_seed(seed)
        if self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for index, (pixels, label) in enumerate(batches):
            with self._exchanged(index == len(batches) - 1):
                images = self._mixed(pixels.to(self.processes.device, non_blocking=True))
                taught = self._begin_teaching(images)
                embedding, maps = self._embed(images)
                target, target_maps = taught()
                problem = self._not_finite(embedding, target)
                if problem is not None:
                    return self._skip(problem, stop)
                loss, parts = self.objective(embedding, label.to(self.processes.device), target)
                if self.map_objective is not None:
                    map_loss, map_parts = self.map_objective(maps, target_maps)
                    loss = loss + map_loss
                    parts |= {"loss": loss.detach(), **map_parts}
                (loss / len(batches)).backward()
            for name, part in parts.items():
                totals[name] = totals.get(name, 0.0) + part / len(batches)
        return self._update(totals, rate, stop)

    def _exchanged(self, last: bool) -> contextlib.AbstractContextManager[None]:
        if last or not isinstance(self.network, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self.network.no_sync()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=self.bf16)

    def _mixed(self, pixels: Tensor) -> Tensor:
        if not self.mixup and not self.cutmix:
            return pixels
        images = float_images(pixels)
        return mix_batch(images, mixup=self.mixup, cutmix=self.cutmix, generator=self._mixing)

    def _begin_teaching(self, images: Tensor) -> Callable[[], tuple[Tensor | None, Maps]]:
        """Start the teacher; the function returned waits for its answer."""
        if self.teacher is not None and self.teacher.own_threads:
            return self._beside.submit(self._taught, images).result
        answer = self._taught(images)
        return lambda: answer

    def _taught(self, images: Tensor) -> tuple[Tensor | None, Maps]:
        if self.teacher is None:
            return None, {}
        with self._autocast():
            if self.map_objective is None:
                return self.teacher(images), {}
            return self.teacher.with_maps(images, self.map_objective.weights)

    def _embed(self, images: Tensor) -> tuple[Tensor, Maps]:
        with self._autocast():
            answer = self.network(network_input(images, self.spec))
        embedding, maps = (answer, {}) if self.map_objective is None else answer
        return embedding.float(), {name: value.float() for name, value in maps.items()}

    def _not_finite(self, embedding: Tensor, target: Tensor | None) -> str | None:
        # Before the objective, which exchanges data and refuses such rows on the process that has them alone.
        rows = [embedding.detach()] if target is None else [embedding.detach(), target]
        wrong = torch.stack([(~part.isfinite()).any() for part in rows]).to(torch.float32)
        found = self.processes.sum_(wrong).tolist()
        names = ("an embedding", "a teacher's embedding")
        return next(
            (f"{name} is not finite" for name, count in zip(names, found, strict=False) if count), None
        )

    def _update(self, totals: dict[str, Tensor], rate: float, stop: Callable[[], bool]) -> StepReport:
        limit = self.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._weights, limit)
        gradients = [parameter.grad for parameter in self._head if parameter.grad is not None]
        head = torch.stack([norm.new_zeros(()), *(vector_norm(gradient, math.inf) for gradient in gradients)])
        values = torch.stack(
            [
                (~torch.stack([*totals.values()]).isfinite().all()).float(),
                (~norm.isfinite()).float(),
                (~head.isfinite().all()).float(),
                norm.new_tensor(float(stop())),
                norm.float(),
                *(part.float() for part in totals.values()),
            ]
        )
        loss, gradient, kernel, stops, *means = self.processes.sum_(values).tolist()
        problems = {
            "the loss is not finite": loss,
            "a gradient of the backbone is not finite": gradient,
            "a gradient of the class centres is not finite": kernel,
        }
        problem = next((text for text, count in problems.items() if count), None)
        if problem is not None:
            self._undo()
            return StepReport({}, math.nan, problem, stops > 0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        means = [mean / self.processes.ranks for mean in means]
        return StepReport(dict(zip(totals, means[1:], strict=True)), means[0], None, stops > 0)

    def _skip(self, problem: str, stop: Callable[[], bool]) -> StepReport:
        asked = self.processes.sum_(torch.tensor([float(stop())], device=self.processes.device))
        self._undo()
        return StepReport({}, math.nan, problem, bool(asked.item()))

    def _undo(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for kept, buffer in zip(self._kept, self._buffers, strict=True):
                buffer.copy_(kept)
