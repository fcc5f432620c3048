from tests.support.serving import parallel_serve_spec, promoted_model, serve_spec

__all__ = ["parallel_serve_spec", "promoted_model", "serve_spec"]
