"""``POST /v1/sign-in-links``: a browser is signed in by whoever holds a token somewhere else."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from fleet.api.dependencies import Services, get_services
from fleet.auth.web_sessions import CODE_S
from service.access import bearer_token, require
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["operations"])


class SignInLink(BaseModel):
    """`path` of the page, behind the address at which the browser reaches this service; it signs one browser in, within `valid_s` seconds."""

    model_config = ConfigDict(json_schema_extra={"example": {"path": "/sign-in?code=…", "valid_s": 300.0}})
    path: str
    valid_s: float


@router.post("/sign-in-links", status_code=201)
def make_sign_in_link(
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    token: Annotated[str, Depends(bearer_token)],
    services: Annotated[Services, Depends(get_services)],
) -> SignInLink:
    """A link that signs a browser in as whoever holds the calling token, once. A program's token has no browser: 403."""
    code = services.sessions.make_code(token)
    return SignInLink(path=f"/sign-in?code={code}", valid_s=CODE_S)
