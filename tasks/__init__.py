"""Run the steps of the library's phases as Prefect tasks: retry policies, artifacts, and the GPU work pool."""
