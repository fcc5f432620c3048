"""Audit and render chat templates, replace unsafe ones, and fit conversations to the context window.

A *template* is Jinja source that renders messages into one prompt. It is untrusted code, so it is parsed and rendered
in a sandboxed subprocess (`sandbox_process`, started by `render`). `audit` combines a static check of the syntax tree
(`ast_audit`) with a dynamic one, which renders sample conversations (`probes`) and compares the results (`fidelity`).

Jinja is imported only in that subprocess.
"""
