"""What a dashboard consists of, and the JSON that Grafana reads.

Every panel has a title, a description and a unit. Queries may use the dashboard's variables and
`$__rate_interval`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from string import ascii_uppercase
from typing import Any

PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24
HEADER = 1
SCHEMA = 39  # of Grafana 10.4 and later


@dataclass(frozen=True)
class Panel:
    """One picture: `queries` are expressions by the legends of their series.

    `kind` is `timeseries` or `stat`, `top` the end of its axis, if it has one. From `warn` on, its
    value is drawn in red. `exemplars` shows traces beside it.
    """

    title: str
    unit: str
    description: str
    queries: Mapping[str, str]
    kind: str = "timeseries"
    stacked: bool = False
    exemplars: bool = False
    top: float | None = None
    warn: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the grid."""
        return (4, 4) if self.kind == "stat" else (8, 8)

    def to_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return the panel at a place of the grid."""
        width, height = self.size
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": PROMETHEUS,
            "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "targets": list(self._targets()),
            "fieldConfig": {"defaults": self._field(), "overrides": []},
            "options": self._options(),
        }

    def _targets(self) -> Iterator[dict[str, Any]]:
        for ref, (legend, expression) in zip(ascii_uppercase, self.queries.items(), strict=False):
            yield {
                "refId": ref,
                "datasource": PROMETHEUS,
                "expr": expression,
                "legendFormat": legend,
                "exemplar": self.exemplars,
                "editorMode": "code",
                "range": True,
            }

    def _field(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if self.warn is not None:
            steps.append({"color": "red", "value": self.warn})
        field: dict[str, Any] = {
            "unit": self.unit,
            "min": 0,
            "thresholds": {"mode": "absolute", "steps": steps},
        }
        if self.top is not None:
            field["max"] = self.top
        if self.kind == "timeseries":
            field["custom"] = {
                "fillOpacity": 30 if self.stacked else 10,
                "showPoints": "never",
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "off" if self.warn is None else "line"},
            }
        return field

    def _options(self) -> dict[str, Any]:
        if self.kind == "stat":
            return {
                "colorMode": "value",
                "graphMode": "area",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            }
        return {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard: the values that a label has."""

    name: str
    title: str
    metric: str

    def to_json(self) -> dict[str, Any]:
        """Return the variable, read anew whenever the time range changes."""
        query = f"label_values({self.metric}, {self.name})"
        return {
            "name": self.name,
            "label": self.title,
            "type": "query",
            "datasource": PROMETHEUS,
            "definition": query,
            "query": {"query": query, "refId": "variable"},
            "refresh": 2,
            "sort": 1,
        }


@dataclass(frozen=True)
class Board:
    """A dashboard; its name is its address and the name of its file."""

    name: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what Grafana loads."""
        return {
            "uid": self.name,
            "title": self.title,
            "description": self.description,
            "tags": ["maniple"],
            "schemaVersion": SCHEMA,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "links": [
                {
                    "type": "dashboards",
                    "title": "Maniple",
                    "tags": ["maniple"],
                    "asDropdown": True,
                    "keepTime": True,
                    "includeVars": True,
                }
            ],
            "templating": {"list": [variable.to_json() for variable in self.variables]},
            "panels": list(self._placed()),
        }

    def _placed(self) -> Iterator[dict[str, Any]]:
        numbers, y = count(1), 0
        for row in self.rows:
            yield {
                "id": next(numbers),
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": HEADER},
                "panels": [],
            }
            x, y, highest = 0, y + HEADER, 0
            for panel in row.panels:
                width, height = panel.size
                if x + width > COLUMNS:
                    x, y, highest = 0, y + highest, 0
                yield panel.to_json(next(numbers), x, y)
                x, highest = x + width, max(highest, height)
            y += highest
