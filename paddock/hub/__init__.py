"""Client of the Hugging Face Hub: resolve revisions, list files, and locate the bytes of a file.

The only package that imports huggingface_hub. Moving model data is left to `paddock.transfer`, except by
huggingface_hub's own download (`download_file`).

    errors    every error of huggingface_hub as one of Paddock's
    answers   answers of the Hub's API, read within bounds
    http      huggingface_hub's HTTP client, and the token
    listing   what huggingface_hub parsed of a revision, checked
    client    `Hub` and `HubFile`
"""

from paddock.hub.client import Hub, HubFile, download_file
from paddock.hub.errors import map_hub_errors

__all__ = ["Hub", "HubFile", "download_file", "map_hub_errors"]
