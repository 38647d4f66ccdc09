"""How ledgers of the tests write toy specs."""

from __future__ import annotations

from detsearch.search.ledger import Codec
from tests.search.toy import code, parse

TOY_CODEC = Codec(code, parse)
