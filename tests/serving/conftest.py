from tests.support.serving import offered, offered_twice, shelf

__all__ = ["offered", "offered_twice", "shelf"]
