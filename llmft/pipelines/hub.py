"""`--push_to_hub`: the finished student's folder, with its card, goes to the hub."""

from __future__ import annotations

import sys
from pathlib import Path

from llmft.run_arguments import RunArguments
from llmft.runs.record import folder_name


def push(run: RunArguments, folder: Path, default_name: str) -> None:
    """Upload a student. A push that fails costs nothing but a line: the run is finished.

    Args:
        folder: the student's.
        default_name: of the repository, where `--hub_model_id` names none.
    """
    from huggingface_hub import HfApi

    name = run.hub_model_id or folder_name(default_name).replace(" ", "-")
    try:
        api = HfApi(token=run.hub_token)
        repository = api.create_repo(name, private=run.hub_private_repo, exist_ok=True).repo_id
        if run.hub_revision is not None:
            api.create_branch(repository, branch=run.hub_revision, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=str(folder), revision=run.hub_revision, commit_message="Student trained by llmft"
        )
    except Exception as error:  # network, rights, names: each client raises its own
        reason = " ".join(str(error).split())[:200]
        if run.hub_token:
            reason = reason.replace(run.hub_token, "***")
        revision = f" --revision {run.hub_revision}" if run.hub_revision else ""
        sys.stderr.write(
            f"note: --push_to_hub: {name} could not be pushed ({type(error).__name__}: {reason}); the run is finished; push it "
            f"with: hf upload {name} {folder}{revision}\n"
        )
    else:
        print(f"pushed: {repository}")
