"""Chat templates: what a model's own is worth, what to use instead, and how a conversation is cut to the window.

A *template* is Jinja source that turns messages into one prompt. It is a stranger's program: it is parsed and
rendered in a process of its own (`child`), and judged by what it says (`static`) and by what it does (`probes`,
`faithful`). `audit` joins the two.

Jinja itself is imported in that process alone.
"""
