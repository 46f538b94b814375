"""A description of an endpoint's format, as Azure ML has it: OpenAPI, from the model's signature."""

from __future__ import annotations

import json

from dbml_magics.core.model.mlmodel import ColumnSpec, Signature

__all__ = ["describe", "sides"]

_TYPES = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "binary": {"type": "string", "format": "byte"},
    "datetime": {"type": "string", "format": "date-time"},
}


def sides(signature: Signature | None, side: str) -> list[ColumnSpec]:
    """Return the columns or tensors of a signature's side (``inputs``, ``outputs``), as MLmodel has them."""
    written = (signature or {}).get(side)
    columns: list[ColumnSpec] | None = json.loads(written) if isinstance(written, str) else written
    return [each.copy() for each in columns or []]


def describe(name: str, version: str, signature: Signature | None) -> dict[str, object]:
    """Return the description of an endpoint that serves a model with this signature."""
    inputs, outputs = sides(signature, "inputs"), sides(signature, "outputs")
    names = [str(each["name"]) for each in inputs if each.get("name") is not None]
    data: dict[str, object] = {"type": "object"}
    if names:
        data = {
            "type": "object",
            "required": ["columns", "data"],
            "properties": {
                "columns": {"type": "array", "items": {"type": "string", "enum": names}},
                "index": {"type": "array", "items": {"type": "integer"}},
                "data": {"type": "array", "items": {"type": "array", "items": {}}},
            },
            "x-columns": {str(each["name"]): _type(each) for each in inputs},
        }
    elif inputs:
        data = {"type": "array", "items": {}}
    answered: dict[str, object] = {"type": "array", "items": {}}
    if outputs and all(each.get("name") is not None for each in outputs):
        answered["items"] = {
            "type": "object",
            "properties": {str(each["name"]): _type(each) for each in outputs},
        }
    elif outputs:
        answered["items"] = _type(outputs[0])
    if outputs and outputs[0].get("type") == "tensor":
        answered["format"] = "numpy.ndarray"
    return {
        "openapi": "3.0.0",
        "info": {"title": name, "version": version},
        "paths": {
            "/score": {
                "post": {
                    "operationId": "RunMLService",
                    "security": [{"key": []}],
                    "requestBody": {"content": _json("#/components/schemas/ServiceInput")},
                    "responses": {
                        "200": {
                            "description": "predictions",
                            "content": _json("#/components/schemas/ServiceOutput"),
                        }
                    },
                }
            }
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "ServiceInput": {
                    "type": "object",
                    "required": ["input_data"],
                    "properties": {"input_data": data, "params": {"type": "object"}},
                },
                "ServiceOutput": answered,
            },
        },
    }


def _json(reference: str) -> dict[str, object]:
    return {"application/json": {"schema": {"$ref": reference}}}


def _type(spec: ColumnSpec) -> dict[str, object]:
    return dict(_TYPES.get(str(spec.get("type")), {}))
