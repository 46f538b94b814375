"""What delivery needs of the link whose writes it delivers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from dbml_magics.core.delivery.lanes import Lanes
from dbml_magics.core.delivery.writers.side import LinkParts
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.runtime.backlog import Backlog
from dbml_magics.core.runtime.doubt import Doubt
from dbml_magics.core.runtime.known import KnownExperiments, KnownModels
from dbml_magics.core.runtime.lifetime import Lifetime
from dbml_magics.core.runtime.recorder import Recorder
from dbml_magics.core.runtime.retention import Retention


@dataclass(frozen=True)
class Runtime:
    """The components of one link in one process that its workers use."""

    parts: LinkParts
    """What the writers of every workspace get of the link."""
    chance: random.Random
    recorder: Recorder
    backlog: Backlog
    retention: Retention
    doubt: Doubt
    lifetime: Lifetime
    experiments: KnownExperiments
    models: KnownModels
    lanes: Callable[[Destination, str], Lanes]
    """Returns where turns at a workspace are carried out, under a name."""
