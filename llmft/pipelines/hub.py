"""`--push_to_hub`: the finished student's folder, with its card, goes to the hub."""

from __future__ import annotations

from llmft.errors import one_line
from llmft.models.load import short_name
from llmft.pipelines.job import Job
from llmft.runs.notes import say_note
from llmft.runs.record import folder_name


def push(job: Job) -> None:
    """Upload a finished run's student, from rank 0. A failed push only prints a line, since the run is finished."""
    from huggingface_hub import HfApi

    if not job.record.writes:
        return
    run, folder = job.config.run, job.record.path / "model"
    name = run.hub_model_id or folder_name(f"{short_name(job.model_name)}-{job.method}").replace(" ", "-")
    try:
        api = HfApi(token=run.hub_token)
        repository = api.create_repo(name, private=run.hub_private_repo, exist_ok=True).repo_id
        if run.hub_revision is not None:
            api.create_branch(repository, branch=run.hub_revision, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=str(folder), revision=run.hub_revision, commit_message="Student trained by llmft"
        )
    except Exception as error:  # network, rights, names: each client raises its own
        reason = one_line(str(error).replace(run.hub_token, "***") if run.hub_token else error)
        revision = f" --revision {run.hub_revision}" if run.hub_revision else ""
        say_note(
            f"--push_to_hub: {name} could not be pushed ({type(error).__name__}: {reason}); the run is finished; push it "
            f"with: hf upload {name} {folder}{revision}"
        )
    else:
        print(f"pushed: {repository}")
