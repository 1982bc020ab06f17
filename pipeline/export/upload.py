"""Upload a folder to the Hugging Face hub with the hub's own client; HF_TOKEN and HF_ENDPOINT are its variables."""

from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, errors, get_token

from pipeline.runtime.errors import BenchmarkError

FAILURES = (httpx2.HTTPError, OSError, RuntimeError, ValueError)
"""What the client raises: RuntimeError for an upload that fails, ValueError for a name that is none."""
HTTP = {401: "the hub does not accept the token", 403: "the token has no right to write there"}


class UploadError(BenchmarkError):
    """A repository that cannot be written; the message says why and what to do."""


def open_repository(repo: str) -> str:
    """Create the model repository `repo` unless it exists; return its full name. UploadError if that is impossible."""
    if constants.is_offline_mode():
        raise UploadError(f"{repo}: HF_HUB_OFFLINE is set; unset it to upload, or leave out --push")
    if get_token() is None:
        raise UploadError(f"{repo}: no token; set HF_TOKEN to one that may write, or run `hf auth login`")
    try:
        return HfApi().create_repo(repo, exist_ok=True).repo_id
    except FAILURES as error:
        raise UploadError(f"{repo}: {_explain(error)}; nothing was exported") from error


def upload(folder: Path, repo: str) -> str:
    """Upload the files of `folder` in a commit; return its address. UploadError leaves the folder as it is."""
    try:
        message = f"Add {folder.resolve().name}"
        return HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message=message).commit_url
    except FAILURES as error:
        raise UploadError(
            f"{repo}: {_explain(error)}; {folder} is complete, upload it with `hf upload {repo} {folder}`"
        ) from error


def _explain(error: BaseException) -> str:
    """Say in one line what went wrong; the client wraps some of its errors."""
    cause = error
    while not isinstance(cause, errors.HfHubHTTPError | httpx2.TransportError) and cause.__cause__ is not None:
        cause = cause.__cause__
    match cause:
        case errors.HFValidationError():
            return "not an id of the hub; expected owner/name"
        case errors.HfHubHTTPError(response=answer):
            reason = HTTP.get(
                answer.status_code, f"HTTP {answer.status_code}, {cause.server_message or 'no reason given'}"
            )
            return f"{reason}; check HF_TOKEN and the name"
        case _:
            reason = " ".join(str(cause).split()) or type(cause).__name__
            return f"{reason}; check the network and HF_ENDPOINT"
