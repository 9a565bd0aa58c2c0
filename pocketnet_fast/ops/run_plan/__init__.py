"""The operator that runs a lowered network: ``pocketnet_fast::run_plan``."""

from pocketnet_fast.ops.run_plan.cpu import run_plan as run_plan
