"""The return codes of programs are found in an error and in its causes."""

from __future__ import annotations

import subprocess
from concurrent.futures.process import BrokenProcessPool

import pytest

from shared_sync.common.return_codes import return_codes
from shared_sync.isolation.errors import RemoteError


def raised_from(cause: BaseException) -> RuntimeError:
    error = RuntimeError("the decoder failed")
    error.__cause__ = cause
    return error


class Unreadable(Exception):
    @property
    def returncode(self) -> int:
        raise OSError("gone")


@pytest.mark.parametrize(
    ("error", "codes"),
    [
        (ValueError("no program"), set()),
        (subprocess.CalledProcessError(-15, "ffmpeg"), {-15}),
        (raised_from(subprocess.CalledProcessError(1, "ffmpeg")), {1}),
        (raised_from(BrokenProcessPool()), {-15}),
        (raised_from(Unreadable()), set()),
        (RemoteError("in a child", type_name="E", return_codes=(1, -15)), {1, -15}),
    ],
)
def test_codes_are_those_of_the_error_and_its_causes(error: BaseException, codes: set[int]) -> None:
    assert return_codes(error) == codes
