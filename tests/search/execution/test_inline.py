from __future__ import annotations

from detsearch.search.execution.base import Executor
from detsearch.search.execution.inline import InlineExecutor
from tests.contracts.executor_contract import ExecutorContract


class TestInlineExecutor(ExecutorContract):
    def make(self) -> Executor:
        return InlineExecutor()
