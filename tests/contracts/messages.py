"""MLflow's REST interface as a contract: its own protocol buffers, in the version that is installed.

Databricks' MLflow calls, Unity Catalog's among them, are described by the messages that MLflow publishes for
its clients (mlflow.protos, Apache-2.0): paths, fields, types, enumerations, required fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import (  # type: ignore[import-untyped]
    Descriptor,
    FieldDescriptor,
)

__all__ = ["MlflowContract"]

_NUMBERS = {
    *(FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64),
    *(FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64),
}
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


class MlflowContract:
    """The calls of MLflow's services, as :class:`tests.contracts.checker.Contract` has Azure's."""

    def __init__(self) -> None:
        from mlflow.protos import (
            databricks_artifacts_pb2,
            databricks_pb2,
            databricks_tracing_pb2,
            databricks_uc_registry_service_pb2,
            model_registry_pb2,
            service_pb2,
        )

        self._required = databricks_pb2.validate_required
        self._messages: dict[str, Descriptor] = {}
        self._operations: list[tuple[re.Pattern[str], dict[str, Any]]] = []
        modules = (service_pb2, model_registry_pb2, databricks_uc_registry_service_pb2)
        for module in (*modules, databricks_artifacts_pb2, databricks_tracing_pb2):
            for service in module.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    for endpoint in method.GetOptions().Extensions[databricks_pb2.rpc].endpoints:
                        self._add(method, endpoint)

    def _add(self, method: Any, endpoint: Any) -> None:
        for message in (method.input_type, method.output_type):
            self._messages[message.full_name] = message
        path = f"/api/{endpoint.since.major}.{endpoint.since.minor}{endpoint.path}"
        pattern = re.compile(re.sub(r"\{[^/]+?\}|<[^/]+?>", "[^/]+", path.lower()))
        operation = {
            "method": endpoint.method,
            "path": path,
            "version": "",
            "body": method.input_type.full_name,
            "answer": method.output_type.full_name,
            "named": set(re.findall(r"[{<](?:\w+:)?(\w+)", path)),  # by the path, so not in the body
            "success": [200],
            "headers": {},
        }
        self._operations.append((pattern, operation))

    def find(self, method: str, path: str) -> Iterator[dict[str, Any]]:
        """Yield the operations of a method and a path (in lower case)."""
        return (
            each for pattern, each in self._operations if each["method"] == method and pattern.fullmatch(path)
        )

    def problems(self, side: str, operation: dict[str, Any], body: Any) -> Iterator[str]:
        """Yield what is wrong with the body of a ``request`` or ``answer``."""
        message = self._messages[operation["body" if side == "request" else "answer"]]
        for each in self._walk(message, body, ""):
            if not (side == "request" and each.removesuffix(" is missing") in operation["named"]):
                yield each

    def created(self, operation: dict[str, Any], body: Any) -> dict[str, Any]:
        """Return nothing: no field of MLflow's is create-only."""
        return {}

    def _walk(self, message: Descriptor, body: Any, place: str) -> Iterator[str]:
        if message.full_name.startswith("google.protobuf."):
            return
        if not isinstance(body, dict):
            yield f"{place or 'body'} is no object"
            return
        fields = {**message.fields_by_camelcase_name, **message.fields_by_name}
        for name, value in body.items():
            where = f"{place}.{name}".lstrip(".")
            if name not in fields:
                yield f"{where} is unknown"
            elif value is not None:
                yield from self._field(fields[name], value, where)
        for name, field in message.fields_by_name.items():
            if field.GetOptions().Extensions[self._required] and not {name, field.camelcase_name} & set(body):
                yield f"{place}.{name} is missing".lstrip(".")

    def _field(self, field: Any, value: Any, where: str) -> Iterator[str]:
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            if not isinstance(value, dict):
                yield f"{where} is no object"
                return
            for each in value.values():
                yield from self._single(message.fields_by_name["value"], each, f"{where}[]")
        elif field.is_repeated:
            if not isinstance(value, list):
                yield f"{where} is no array"
                return
            for each in value:
                yield from self._single(field, each, f"{where}[]")
        else:
            yield from self._single(field, value, where)

    def _single(self, field: Any, value: Any, where: str) -> Iterator[str]:
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_MESSAGE:
            yield from self._walk(field.message_type, value, where)
        elif kind == FieldDescriptor.CPPTYPE_ENUM:
            if value not in field.enum_type.values_by_name and value not in field.enum_type.values_by_number:
                yield f"{where} has the unknown value {value!r}"
        elif kind in _NUMBERS:
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole and not (isinstance(value, str) and re.fullmatch(r"-?\d+", value)):
                yield f"{where} is no integer"
        elif kind in _FLOATS:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                yield f"{where} is no number"
        elif not isinstance(value, bool if kind == FieldDescriptor.CPPTYPE_BOOL else str):
            yield f"{where} is no {'boolean' if kind == FieldDescriptor.CPPTYPE_BOOL else 'string'}"
