"""Discovery: where a workspace's services are. All of them are here."""

from __future__ import annotations

from starlette.responses import Response

from tests.standins.azure.state import State
from tests.standins.azure.web import Call, reply, route

__all__ = ["Discovery"]

SERVICES = (
    *("api", "history", "modelmanagement", "experimentation", "hyperdrive", "execution", "pipelines"),
    *("notebooks", "catalog", "artifacts", "metric", "schedule"),
)


class Discovery:
    """Asked without a token."""

    def __init__(self, state: State) -> None:
        self.state = state

    @route("GET HEAD", "/")
    async def root(self, call: Call) -> Response:
        """Answer whoever asks for nothing in particular, as a gateway does."""
        return reply({"error": {"code": "ResourceNotFound"}}, 404)

    @route("GET", "/studio/{rest*}")
    async def studio(self, call: Call) -> Response:
        """Serve the studio's one page, which signs in by itself."""
        return Response("<html><title>Azure ML studio</title></html>", media_type="text/html")

    @route("GET", "/discovery")
    @route("GET", "/discovery/{rest*}")
    async def services(self, call: Call) -> Response:
        """Name the address of every service."""
        public = self.state.public
        return reply({**dict.fromkeys(SERVICES, public), "studio": f"{public}/studio"})
