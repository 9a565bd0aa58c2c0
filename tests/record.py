"""Record what eager PyTorch computes in float64 from the weights of ``formula``: ``python tests/record.py``.

Before anything is written, the same eager code is shown to reproduce the recorded results of the published
code (POCKETNET_SHARED, or ../shared beside the project): these files then pass that on to a fresh clone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parent))

import formula
from helpers import relative_error
from recordings import FOLDER, IMAGES, NETWORKS, load_repository, load_shared, network_of, write
from search_cases import GOLDEN as SEARCH
from search_cases import SearchCase, recorded_case

from pocketnet_fast.losses import distillation_loss, margin_cross_entropy
from pocketnet_fast.search.architecture import architecture_gradient
from pocketnet_fast.search.derivation import derive_genotype

MARGIN = "arcface_kd_n32_d128_c1000"


def embeddings(name: str) -> dict[str, Tensor]:
    shared = load_shared(name)
    network = network_of(shared).double()
    spec = network.input_spec
    with torch.no_grad():
        found = network(spec.normalize(shared.tensors["input_rgb_u8"]).double())
        assert relative_error(found, shared.tensors["embedding"]) < 5e-5, name
        formula.fill_(network)
        # Filled by float32 values, computed with in float64.
        result = network(spec.normalize(formula.images(name, IMAGES)).double())
    assert 0.1 < result.std() < 100, result.std()
    return {"embedding": result.float()}


def margins(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    embedding, kernel, teacher = (inputs[k].double() for k in ("embedding", "kernel", "teacher"))
    leaves = embedding.requires_grad_(), kernel.requires_grad_()
    options = {"implementation": "reference"}
    total = margin_cross_entropy(*leaves, inputs["label"], teacher=teacher, kd_weight=100.0, **options)
    by_embedding, by_kernel = torch.autograd.grad(total, leaves)
    alone = margin_cross_entropy(*leaves, inputs["label"], **options)
    found = {
        "total": total.reshape(1),
        "arcface_loss": alone.reshape(1),
        "kd_mse": distillation_loss(embedding, teacher).reshape(1),
        "grad_embedding": by_embedding,
        "grad_kernel": by_kernel,
    }
    return {name: value.detach().float() for name, value in found.items()}


def margin() -> dict[str, Tensor]:
    shared = load_shared(MARGIN).tensors
    for name, value in margins(shared).items():
        assert relative_error(value, shared[name]) < 1e-4, name
    return margins(load_repository(MARGIN, outputs=False).tensors)


def searched(case: SearchCase) -> dict[str, Tensor]:
    case.network.fused = False
    found = {"train_logits": case.network(case.train_batch[0]).detach()}
    options = {"xi": case.optimizer.param_groups[0]["lr"], "optimizer": case.optimizer}
    for prefix, order in (("alpha_grad_first_order", 1), ("alpha_grad", 2)):
        gradient = architecture_gradient(
            case.network, case.train_batch, case.val_batch, order=order, **options
        )
        found |= {f"{prefix}.{name}": value for name, value in gradient.items()}
    case.network.zero_grad()
    loss = cross_entropy(case.network(case.val_batch[0]), case.val_batch[1])
    loss.backward()
    for name, alpha in case.network.alphas().items():
        assert relative_error(alpha.grad, found[f"alpha_grad_first_order.{name}"]) < 1e-9
    return found


def search() -> dict[str, Tensor]:
    shared = load_shared(SEARCH)
    for name, value in searched(recorded_case(shared, torch.float64)).items():
        assert relative_error(value, shared.tensors[name]) < 1e-8, name
    return searched(recorded_case(load_repository(SEARCH, outputs=False), torch.float64))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in NETWORKS:
        write(name, embeddings(name), load_shared(name).metadata)
    write(MARGIN, margin(), load_shared(MARGIN).metadata)
    record = load_repository(SEARCH, outputs=False)
    alphas = [[record.weights[f"alpha_{cell}.{n}"] for n in range(4)] for cell in ("normal", "reduce")]
    metadata = record.metadata | {"genotype": str(derive_genotype(*alphas))}
    write(SEARCH, search(), metadata)
    for path in sorted(FOLDER.glob("*.safetensors")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
