"""The hub: what is locked, what is not there, what cannot be reached; and the services that runs log to."""

from __future__ import annotations

import re

from ax_recipe.diagnose.cause import Cause, Remedy, patterns, sign

_NETWORK = re.compile(
    r"Connect(?:ion)?(?:Error|Timeout)|ReadTimeout|SSLError|ProxyError|Max retries exceeded|"
    r"[Nn]ame resolution|Name or service not known|Network is unreachable"
)

# What peft asks the hub for, though a path is no name there, where the folder has no adapter.
_NO_NAME = r"Repo id must (?:be in the form|use alphanumeric)[^\n]*'(?P<what>[^']*)'"

CAUSES = (
    Cause(
        "adapter-missing",
        "The adapter is not where it is looked for{what}: there is no such folder, or a file of it is gone.",
        patterns(
            r"LoRA adapter weights not found in (?P<what>\S+)",
            r"LoRA adapter weights does not exist: `(?P<what>[^`]+)",
            r"LoRA config not found: (?P<what>\S+)",
            r"Can't find 'adapter_config\.json' at '?(?P<what>[^'\s]+)",
            r"Can't find weights for (?P<what>\S+) in \S+ or in the Hugging Face Hub",
        ),
        (),
        (
            Remedy("Make it anew: the training goes on from its newest checkpoint.", command="{resume}"),
            Remedy("Or take that of a checkpoint: each has one.", command="ls -d {what}/checkpoint-*"),
            Remedy("Or name the folder that it lies in: paths count from where the command is given."),
        ),
        "measured with Axolotl 0.19",
        framed=((re.compile(_NO_NAME), re.compile(r"\bin load_peft_weights\b")),),
    ),
    Cause(
        "hub-gated",
        "The hub refuses it{what}: its licence is not accepted, or the token is missing, wrong or too narrow.",
        patterns(
            r"gated repo(?: for url \S*huggingface\.co/(?:api/\w+/)?(?P<what>[\w.-]+/[\w.-]+))?",
            r"GatedRepoError|Access to (?:model|dataset) (?P<what>\S+) is restricted",
            r"(?:401|403) (?:Client Error|Forbidden|Unauthorized)[^\n]*huggingface\.co",
            r"Invalid (?:username or password|user token|credentials in Authorization header)",
            r"Dataset '(?P<what>[^']+)' is a gated dataset",
        ),
        (),
        (
            Remedy("Accept the licence on the page of the model or data set, then log in.", command="hf auth login"),
            Remedy(
                "Where nobody can log in (a batch job), give a token that may read gated repositories.",
                command="HF_TOKEN=hf_... {again}",
            ),
        ),
        "Axolotl issue 432; huggingface_hub errors",
    ),
    Cause(
        "hub-not-found",
        "There is no such repository, revision or file on the hub{what}, or it is private and nobody is logged in.",
        patterns(
            r"RepositoryNotFoundError|RevisionNotFoundError|RemoteEntryNotFoundError",
            r"404 Client Error[^\n]*huggingface\.co",
            r"(?P<what>\S+) is not a local folder and is not a valid model identifier",
            r"Repository Not Found for url: \S*huggingface\.co/(?:api/(?:models|datasets)/)?(?P<what>[\w.-]+/[\w.-]+)",
            r"Dataset '(?P<what>[^']+)' doesn't exist on the Hub",
            r"HFValidationError[^\n]*'(?P<what>[^']*)'",
            _NO_NAME,
        ),
        (),
        (
            Remedy("Look its name up (capitals count), and correct base_model or the path of the data set."),
            Remedy("If it is a folder: paths count from where the command is given.", command="ls -d {what}"),
            Remedy("If it is private: log in.", command="hf auth login"),
        ),
        "huggingface_hub errors; transformers utils/hub",
    ),
    Cause(
        "hub-unreachable",
        "The hub could not be reached (or HF_HUB_OFFLINE is set), and what was asked for is not in the cache.",
        patterns(
            r"We couldn't connect to '?https?://\S+ to load",
            r"OfflineModeIsEnabled|LocalEntryNotFoundError|outgoing traffic has been disabled",
            r"(?:Max retries exceeded|Connection(?:Error| aborted)|ConnectTimeout|ReadTimeout)[^\n]*huggingface|"
            r"huggingface\.co[^\n]*(?:Max retries exceeded|timed out|Temporary failure in name resolution)",
            r"(?:429|50[0234]) (?:Client|Server) Error[^\n]*huggingface\.co|CAS service error",
            r"Couldn't reach '?(?P<what>[^'\s]+)'? on the Hub",
        ),
        (),
        (
            Remedy(
                "Fetch it where the hub can be reached; the cache (HF_HOME) then serves it.",
                command="hf download ORGANISATION/NAME",
            ),
            Remedy("If the name is a folder here: write its path with ./ in front, from where the command is given."),
            Remedy("Leave the hub's new transport out of it.", command="HF_HUB_DISABLE_XET=1 {again}"),
        ),
        "measured with Axolotl 0.19; Axolotl docs/faq (CAS service error)",
        framed=((_NETWORK, re.compile(r"huggingface_hub|utils/hub|datasets/")),),
    ),
    Cause(
        "tracker-login",
        "The service that the run logs to (W&B, MLflow, Comet) was not reached, or nobody is logged in there.",
        patterns(
            r"wandb\.(?:sdk\.\S*|errors\.\S*)(?:UsageError|CommError|AuthenticationError|TransientError)",
            r"api_key not configured|No API key configured\. Use `wandb login`",
            r"(?:permission denied|entity \S+ not found) during upsertBucket",
            r"mlflow\.exceptions|comet_ml\.exceptions",
        ),
        (sign("wandb: ERROR", r"wandb: ERROR (?:api_key not configured|.*[Ll]ogin|.*API key)"),),
        (
            Remedy("Log in once on this machine.", command="wandb login"),
            Remedy("Write to disk, and send it later with wandb sync.", {"wandb_mode": "offline"}),
            Remedy("Log nowhere.", {"use_wandb": False}),
        ),
        "measured with Axolotl 0.19; wandb docs",
    ),
)
