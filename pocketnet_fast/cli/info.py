"""``pocketnet info``: how large the networks are, and what they are lowered to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.exported_info import exported_metadata, print_exported
from pocketnet_fast.cli.loading import load_model, weight_file
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import JsonOption, WeightsOption
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.thresholds import show_calibration
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from rich.table import Table

    from pocketnet_fast.lowering import Plan
    from pocketnet_fast.models.base import EmbeddingModel
    from pocketnet_fast.models.counting import Count, ModelCount

_CONVENTIONS = (
    "MACs: multiply-accumulates of convolutions and linear layers. FLOPs: the paper's convention, which "
    "counts multiplies and adds separately and normalisation, activation and pooling too; cut after two "
    "decimals."
)


@dataclass(frozen=True)
class _Sizes:
    """What a PocketNet of one's own is made of."""

    genotype: Annotated[
        str | None,
        typer.Option(help="For the model 'pocketnet': a genotype's text, or a published one's name."),
    ] = None
    channels: Annotated[int | None, typer.Option(help="For the model 'pocketnet'.")] = None
    layers: Annotated[int | None, typer.Option(help="For the model 'pocketnet'.")] = None
    embedding_dim: Annotated[int | None, typer.Option(help="Length of the embedding.")] = None

    def given(self) -> dict[str, object]:
        """Those that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@grouped
def info(
    model: Annotated[
        str | None,
        typer.Argument(help="A network's name; without it and without --weights, all are listed."),
    ] = None,
    *,
    sizes: _Sizes,
    weights: WeightsOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the fused steps of the lowered model.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print parameters, multiply-accumulates and the paper's FLOPs, per model and per kind of operation.

    Of an exported file, .pt or .pt2, what it says of itself: network, input, kernels, thresholds.

    Examples: [bold]pocketnet info[/bold], [bold]pocketnet info pocketnet_s128 --plan[/bold],
    [bold]pocketnet info --weights runs/tiny[/bold],
    [bold]pocketnet info pocketnet --genotype softmax_cifar10 --channels 16 --layers 18 --json[/bold]
    """
    given = sizes.given()
    exported = None if weights is None else exported_metadata(weights)
    if weights is not None and exported is not None:
        if given or plan or model not in (None, exported.get("model")):
            raise PocketNetError(
                f"{weights} is an exported file; what it holds is printed without another model and --plan"
            )
        print_exported(weights, exported, as_json)
        return
    if weights is not None and not given:
        _print_one(load_model(model, weights, untrained=False), plan, as_json)
        return
    if model is None:
        options = [f"--{name.replace('_', '-')}" for name in given] + (["--plan"] if plan else [])
        if options:
            raise PocketNetError(f"{', '.join(options)} needs a model; run: pocketnet info MODEL")
        _print_all(as_json)
        return

    from pocketnet_fast.models.registry import PRETRAINED, create_model

    file = None if weights is None else weight_file(weights)
    # Of a network that ships with weights, these are what the other commands take.
    pretrained = file is None and model in PRETRAINED and not given
    network = create_model(model, pretrained=pretrained, weights=file, **vars(sizes))
    _print_one(network, plan, as_json)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("info")(info)


def _print_all(as_json: bool) -> None:
    import torch

    from pocketnet_fast.models.architectures import list_models
    from pocketnet_fast.models.counting import count_model
    from pocketnet_fast.models.registry import create_model

    counts: dict[str, tuple[int, ModelCount]] = {}
    for name in list_models():
        with torch.device("meta"):
            network = create_model(name)
        counts[name] = (network.embedding_dim, count_model(network))
    if as_json:
        rows = {name: {"embedding_dim": dim, **_fields(count.total)} for name, (dim, count) in counts.items()}
        print_json(rows)
        return
    table = _table("model", "embedding", "parameters", "MACs, M", "FLOPs, M")
    for name, (dim, count) in counts.items():
        table.add_row(name, str(dim), *_cells(count.total))
    _show(table)
    typer.echo(_CONVENTIONS)


def _print_one(model: EmbeddingModel, plan: bool, as_json: bool) -> None:
    from pocketnet_fast.models.counting import count_model
    from pocketnet_fast.models.weights import weights_sha256

    count = count_model(model)
    steps = _lower(model) if plan else None
    sha256 = None if model.weights_source is None else weights_sha256(model)
    if as_json:
        print_json(_described(model, count, sha256, steps))
        return
    _print_facts(model, sha256)
    for title, parts in (("operation", count.by_operation), ("layer", count.by_layer)):
        table = _table(title, "parameters", "MACs, M", "FLOPs, M")
        for name, part in parts.items():
            table.add_row(name, *_cells(part))
        table.add_section()
        table.add_row("total", *_cells(count.total))
        _show(table)
    typer.echo(_CONVENTIONS)
    if steps is not None:
        typer.echo(str(steps))


def _described(
    model: EmbeddingModel, count: ModelCount, sha256: str | None, steps: Plan | None
) -> dict[str, Any]:
    from pocketnet_fast.models.pocketnet import PocketNet

    about: dict[str, Any] = {
        "model": model.model_name,
        "embedding_dim": model.embedding_dim,
        "input": asdict(model.input_spec),
        "weights": {"source": model.weights_source, "sha256": sha256},
        "calibration": None if model.calibration is None else model.calibration.as_dict(),
        **_fields(count.total),
        "by_operation": {name: _fields(part) for name, part in count.by_operation.items()},
        "by_layer": {name: _fields(part) for name, part in count.by_layer.items()},
    }
    if isinstance(model, PocketNet):
        about |= {"genotype": str(model.genotype), "channels": model.channels, "layers": model.layers}
    return about if steps is None else about | {"plan": steps.rows()}


def _print_facts(model: EmbeddingModel, sha256: str | None) -> None:
    from pocketnet_fast.models.pocketnet import PocketNet

    spec = model.input_spec
    typer.echo(f"model: {model.model_name}, embedding of {model.embedding_dim}")
    if isinstance(model, PocketNet):
        typer.echo(f"cells: {model.layers} of {model.channels} channels; {model.genotype}")
    typer.echo(
        f"input: {spec.size[0]}x{spec.size[1]} {spec.color.upper()}, "
        f"(x/255 - mean)/std with mean {spec.mean} and std {spec.std}"
    )
    none = "none; no trained weights ship for it"
    typer.echo(f"weights: {none if sha256 is None else f'{model.weights_source}, SHA-256 {sha256}'}")
    if model.calibration is not None:
        show_calibration(model.calibration)


def _lower(model: EmbeddingModel) -> Plan:
    from pocketnet_fast.lowering import lower

    return lower(model.eval())


def _fields(count: Count) -> dict[str, int | float]:
    return {
        "parameters": count.parameters,
        "macs": count.macs,
        "flops": count.flops,
        "paper_mflops": count.paper_mflops,
    }


def _cells(count: Count) -> tuple[str, str, str]:
    return f"{count.parameters:,}", f"{count.macs / 1e6:,.2f}", f"{count.paper_mflops:,.2f}"


def _table(first: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _show(table: Table) -> None:
    from rich.console import Console

    Console().print(table)
