"""From a trained module to a simplified plan of fused steps."""

from pocketnet_fast.lowering.networks import lower as lower
from pocketnet_fast.lowering.plan import Plan as Plan
