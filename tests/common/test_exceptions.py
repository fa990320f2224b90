"""What an error says is found whatever its methods do: causes in their order, types, texts."""

from __future__ import annotations

from shared_sync.common.exceptions import chain_of, name_of, names_of, text_of, traceback_of


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


class Silent(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_an_error_whose_text_fails_is_still_an_error() -> None:
    assert text_of(ValueError("bad")) == "bad"
    assert text_of(Silent()) == "(its text cannot be read)"


def test_a_traceback_has_the_causes_too() -> None:
    error = ValueError("later")
    error.__cause__ = KeyError("cause")
    assert traceback_of(error).startswith("KeyError: 'cause'\n")
    assert traceback_of(error).endswith("ValueError: later\n")


def test_types_are_named_behind_their_modules_except_those_of_python() -> None:
    assert name_of(ValueError) == "ValueError"
    assert names_of(Silent) == (f"{__name__}.Silent", "Exception", "BaseException", "object")
