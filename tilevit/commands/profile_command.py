"""`tilevit profile`: what a model costs, measured here and modelled on a machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tilevit.commands.options import Json, Model
from tilevit.console import tell
from tilevit.settings import MACHINES


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("profile", rich_help_panel="Hardware")(profile)


def profile(
    model: Model,
    hardware: Annotated[
        str | None, typer.Option(help=f"Machine for the modelled energy and cycles. {MACHINES}")
    ] = "zcu104",
    batch: Annotated[int, typer.Option(help="Images at a time in the timings.", min=1, max=65536)] = 1,
    json: Json = False,
) -> None:
    """Parameters, exact MACs, size, sparsity, latency and throughput here; modelled cycles and energy on a machine."""
    from tilevit.models import load_model
    from vit import profile_model

    network = load_model(model).network()
    told: dict[str, Any] = profile_model(network, batch_size=batch).to_dict()
    if hardware is not None:
        from fifo_sim import lower
        from fifo_sim import simulate as simulated

        lowered = lower(network, hardware)
        cycles = simulated(lowered.pipeline, history=False).cycles
        told |= {"modelled_hardware": lowered.hardware.name, "modelled_cycles": cycles}
        told |= {"modelled_energy_pj": lowered.energy().total_pj, "modelled_sram_kib": lowered.memory.sram_kib}
    tell(model, told, json)
