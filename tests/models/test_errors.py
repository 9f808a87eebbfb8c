import inspect

from pnag.models import errors


def test_the_drawn_tree_names_every_error_class() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error") and word[0].isupper()}
    assert classes == drawn - {"ValueError"}


def test_every_error_is_a_pnag_error_and_a_value_error() -> None:
    for name, value in vars(errors).items():
        if inspect.isclass(value):
            assert issubclass(value, errors.PnagError), name
            assert issubclass(value, ValueError), name
