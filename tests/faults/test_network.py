"""Faults of the network between a pool, a producer and Redis."""

from __future__ import annotations

import pytest
from faults.ledger import FaultTable, Ledger, MakePool
from faults.proxy import Proxy


@pytest.mark.parametrize("request_kind", ["read", "finish"])
def test_a_request_that_is_cut_off_on_its_way_costs_nothing(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable, request_kind: str
) -> None:
    ledger.publish(40)
    fault = proxy.cut_before(request_kind, times=3)
    pool = make_pool(proxy.url, ledger.processor())
    pool.start()
    assert fault.happened.wait(10)
    ledger.fault_is_over()
    ledger.publish(10)
    fault_table.add(f"cut before the {request_kind}", ledger, pool)
