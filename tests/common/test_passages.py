"""The errors that led to an error are found, in their order."""

from __future__ import annotations

from shared_sync.common.passages import chain_of


class Empty(Exception):
    """Counts as false."""

    def __len__(self) -> int:
        return 0


def raised_while_handling(before: BaseException) -> ValueError:
    error = ValueError("later")
    error.__context__ = before
    return error


def test_an_error_alone_is_all_of_its_chain() -> None:
    error = ValueError("alone")
    assert chain_of(error) == [error]


def test_causes_come_before_what_was_handled() -> None:
    cause, handled = KeyError("cause"), KeyError("handled")
    error = raised_while_handling(handled)
    assert chain_of(error) == [error, handled]
    error.__cause__ = cause
    assert chain_of(error) == [error, cause]


def test_what_is_cut_off_by_from_none_is_left_out() -> None:
    error = raised_while_handling(KeyError("handled"))
    error.__suppress_context__ = True
    assert chain_of(error) == [error]


def test_a_cause_that_counts_as_false_is_found() -> None:
    error, cause = ValueError("later"), Empty()
    error.__cause__ = cause
    assert chain_of(error) == [error, cause]


def test_a_chain_that_leads_back_to_itself_ends() -> None:
    error = ValueError("later")
    before = raised_while_handling(error)
    error.__context__ = before
    assert chain_of(error) == [error, before]
