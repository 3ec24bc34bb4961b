"""Which vector index fits a column, and the statements that build and drop it.

Limits are pgvector's (README, "HNSW" and "IVFFlat"): ``vector`` columns can be indexed up to 2,000 dimensions,
``halfvec`` up to 4,000, ``bit`` up to 64,000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from toolbox_cli.domain.models import Generation, IndexMethod, Role, VectorIndex

if TYPE_CHECKING:
    from toolbox_cli.db.state import RegistryState

MAX_VECTOR_INDEX = 2_000
MAX_HALFVEC_INDEX = 4_000


@dataclass(frozen=True)
class IndexShape:
    """How a column of some dimension is indexed: the type of the indexed expression and its operator class."""

    element: str
    operator_class: str
    dimension: int

    def expression(self, *column: str) -> sql.Composed:
        """The expression that is indexed, of a column that may be qualified; a query must repeat it."""
        name, dimension = sql.Identifier(*column), sql.Literal(self.dimension)
        match self.element:
            case "halfvec":
                return sql.SQL("({}::halfvec({}))").format(name, dimension)
            case "bit":
                return sql.SQL("(binary_quantize({})::bit({}))").format(name, dimension)
            case _:
                return sql.SQL("{}").format(name)

    def probe(self, value: sql.Composable) -> sql.Composed:
        """A vector parameter brought to the type that the index holds."""
        dimension = sql.Literal(self.dimension)
        match self.element:
            case "halfvec":
                return sql.SQL("({}::vector::halfvec({}))").format(value, dimension)
            case "bit":
                return sql.SQL("(binary_quantize({}::vector)::bit({}))").format(value, dimension)
            case _:
                return sql.SQL("({}::vector({}))").format(value, dimension)


def shape_for(dimension: int) -> IndexShape:
    """The index shape for a dimension from 1 to 16,000 (DESIGN 4.3)."""
    if dimension <= MAX_VECTOR_INDEX:
        return IndexShape("vector", "vector_cosine_ops", dimension)
    if dimension <= MAX_HALFVEC_INDEX:
        return IndexShape("halfvec", "halfvec_cosine_ops", dimension)
    return IndexShape("bit", "bit_hamming_ops", dimension)


def ivfflat_lists(rows: int) -> int:
    """pgvector's advice: rows / 1000 up to a million rows, the square root beyond; at least 10."""
    return max(10, rows // 1000 if rows <= 1_000_000 else int(rows**0.5))


def create_index(
    role: Role, dimension: int, method: IndexMethod, *, concurrently: bool, rows: int = 0, name: str | None = None
) -> sql.Composed:
    """CREATE INDEX for a role's column. ``rows`` (how many are filled) matters for ivfflat only."""
    shape = shape_for(dimension)
    options = sql.SQL(" WITH (lists = {})").format(sql.Literal(ivfflat_lists(rows)))
    return sql.SQL(
        "CREATE INDEX{concurrently} {name} ON tools USING {method} ({expression} {opclass}){options}"
    ).format(
        concurrently=sql.SQL(" CONCURRENTLY" if concurrently else ""),
        name=sql.Identifier(name or role.index_name),
        method=sql.SQL("ivfflat" if method == "ivfflat" else "hnsw"),
        expression=shape.expression(role.column),
        opclass=sql.SQL(shape.operator_class),
        options=options if method == "ivfflat" else sql.SQL(""),
    )


def expected_index(role: Role, dimension: int, method: IndexMethod) -> VectorIndex:
    """What the catalogue will say of an index that ``create_index`` makes."""
    shape = shape_for(dimension)
    return VectorIndex(
        name=role.index_name,
        column=role.column,
        method=method,
        element=shape.element,
        operator_class=shape.operator_class,
        dimension=dimension,
        valid=True,
    )


def drop_index(name: str, *, concurrently: bool = False) -> sql.Composed:
    return sql.SQL("DROP INDEX{} IF EXISTS {}").format(
        sql.SQL(" CONCURRENTLY" if concurrently else ""), sql.Identifier(name)
    )


def unfit_reason(index: VectorIndex, dimension: int, method: IndexMethod) -> str | None:
    """Why an index does not serve a column of this dimension, or None when it does."""
    shape = shape_for(dimension)
    if not index.valid:
        return "it is invalid: its build was cancelled or failed"
    if index.method != method:
        return f"it is {index.method}, expected {method}"
    if index.element != shape.element or index.dimension not in (None, dimension):
        return f"it indexes {index.element}({index.dimension}), expected {shape.element}({dimension})"
    if index.operator_class != shape.operator_class:
        return f"its operator class is {index.operator_class}, expected {shape.operator_class}"
    return None


def index_fault(state: RegistryState, generation: Generation) -> str | None:
    """Why the index on a generation's column does not serve, None when one does or none is wanted."""
    dimension = state.dimension_of(generation.role)
    if dimension is None or generation.index_method == "none":
        return None
    found = state.indexes_on(generation.role)
    faults = [unfit_reason(index, dimension, generation.index_method) for index in found]
    if not faults:
        return "there is none"
    return None if None in faults else faults[0]
