"""The contract for outsiders, generated from the messages: JSON Schemas and an AsyncAPI document.

Kept in `docs/` and compared there by a test; `maniple asyncapi` prints it.
"""

import json
from importlib.metadata import version
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from maniple.messages import (
    RESERVED_FIELDS,
    Envelope,
    Progress,
    Result,
    Task,
    TaskAccepted,
    TaskAdmitted,
    TaskRunning,
    TasksAccepted,
)
from maniple_cli.contract import channels, wording
from maniple_policies.documents import DOCUMENT
from maniple_runtime.control.messages import (
    COMMANDS,
    ControlMessage,
    Heartbeat,
    Outcomes,
    Request,
    Response,
)
from maniple_runtime.events import AGENT_EVENTS, BreakerChanged, PolicyApplied, PolicyChanged

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFS = "#/$defs/{name}"
HOT: tuple[type[msgspec.Struct], ...] = (
    Task,
    Result,
    Progress,
    TaskAdmitted,
    TaskAccepted,
    TasksAccepted,
    TaskRunning,
    Envelope,
)
CONTROL: tuple[type[ControlMessage], ...] = (
    Request,
    Response,
    Heartbeat,
    Outcomes,
    *COMMANDS,
    *AGENT_EVENTS,
    PolicyApplied,
    PolicyChanged,
    BreakerChanged,
)

Schema = dict[str, Any]


def message_schemas() -> dict[str, Schema]:
    """Return the JSON Schemas of all messages and of policies by name, each complete in itself."""
    schemas = {model.__name__: _hot_schema(model) for model in HOT}
    for control in CONTROL:
        schema = control.model_json_schema(mode="serialization", ref_template="#/$defs/{model}")
        schemas[control.__name__] = {"$schema": DIALECT, **schema}
    schemas["Policy"] = _policy_schema()
    return schemas


def _policy_schema() -> Schema:
    """Return the schema of a policy document, as people write it."""
    schema = DOCUMENT.json_schema(mode="validation", ref_template=REFS.replace("name", "model"))
    for definition in schema["$defs"].values():
        if "kind" in definition.get("properties", ()):
            definition["required"].insert(0, "kind")  # it tells the others apart
    about = "A document for `maniple policy apply`; the policy service gives it its version."
    return {"$schema": DIALECT, "title": "Policy", "description": about, **schema}


def _hot_schema(model: type[msgspec.Struct]) -> Schema:
    (reference,), components = msgspec.json.schema_components([_twin(model)], ref_template=REFS)
    name = model.__name__
    definitions = {key: _annotated(key, value) for key, value in components.items()}
    top = definitions.pop(name, reference)
    top["description"] = wording.SUMMARIES[name]
    schema = {"$schema": DIALECT, **top}
    return {**schema, "$defs": definitions} if definitions else schema


def _twin(model: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return the same struct with `Any` for `Raw`, whose defaults msgspec cannot express."""
    hints = get_type_hints(model, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(model):
        hint = hints[field.name]
        raw, *about = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if raw is msgspec.Raw:
            default = msgspec.NODEFAULT if field.required else None
            fields.append((field.name, Annotated[Any, *about] if about else Any, default))
        else:
            fields.append((field.name, hint, _default(field)))
    strict = model.__struct_config__.forbid_unknown_fields
    return msgspec.defstruct(
        model.__name__, fields, kw_only=True, frozen=True, forbid_unknown_fields=strict
    )


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    return field.default


def _annotated(name: str, schema: Schema) -> Schema:
    """Add descriptions of fields that the struct does not describe."""
    fields = wording.FIELDS.get(name, {})
    if "description" in schema:  # a docstring, which Python itself strips from 3.13 only
        schema["description"] = cleandoc(schema["description"])
    properties = schema.get("properties", {})
    for field, value in properties.items():
        if field in fields:
            value["description"] = fields[field]
        if name == "Task" and field in RESERVED_FIELDS:
            value["type"] = "null"
    return schema


def asyncapi_document() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Maniple",
            "version": version("maniple"),
            "description": wording.INTRODUCTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "rabbitmq": {
                "host": "{host}:{port}",
                "pathname": "/{environment}",
                "protocol": "amqp",
                "protocolVersion": "0-9-1",
                "description": "RabbitMQ 3.10 or later. The vhost is the environment's name.",
                "variables": {
                    "host": {"default": "localhost"},
                    "port": {"default": "5672"},
                    "environment": {"default": "dev"},
                },
                "security": [{"$ref": "#/components/securitySchemes/user"}],
            }
        },
        "channels": channels.channels(),
        "operations": channels.operations(),
        "components": {
            "messages": channels.messages(),
            "schemas": _components(),
            "securitySchemes": {
                "user": {"type": "userPassword", "description": wording.ROLES},
            },
        },
    }


def _components() -> dict[str, Schema]:
    """Return the schemas of all documented messages with references into the document."""
    schemas: dict[str, Schema] = {}
    for name in channels.DOCUMENTED:
        schema = message_schemas()[name]
        schema.pop("$schema")
        definitions = schema.pop("$defs", {})
        schemas.update({name: schema, **definitions})
    moved = json.dumps(schemas).replace('"#/$defs/', '"#/components/schemas/')
    loaded: dict[str, Schema] = json.loads(moved)
    return dict(sorted(loaded.items()))


def rendered(document: Any) -> str:
    """Return the text of a document, as kept in `docs/`."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def schema_files() -> dict[str, str]:
    """Return the text of each file of `docs/schemas/` by its name."""
    return {f"{name}.json": rendered(schema) for name, schema in message_schemas().items()}


def write_schemas(folder: Path) -> None:
    """Write all JSON Schemas into a folder. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schema_files().items():
        (folder / name).write_text(text)
