from tests.support.serving import offered, offered_twice

__all__ = ["offered", "offered_twice"]
