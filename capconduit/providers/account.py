"""What a request to a provider needs, its key included; and how each kind wants to be asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from capconduit.vocab import ProviderKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A provider as it is asked. `key` empty: it is asked without one; `key_ref` is how the key is called in words."""

    name: str
    kind: ProviderKind
    base_url: str
    key: str = field(default="", repr=False)
    key_ref: str = ""
    model: str = ""
    text_model: str = ""
    deployment: str = ""
    api_version: str = ""

    def headers(self) -> dict[str, str]:
        """How the kind is shown the key."""
        if not self.key:
            return {}
        if self.kind is ProviderKind.AZURE:
            return {"api-key": self.key}
        scheme = "Token" if self.kind is ProviderKind.DEEPGRAM else "Bearer"
        return {"Authorization": f"{scheme} {self.key}"}

    @property
    def writes(self) -> str:
        """The model, of azure the deployment, that is asked for text; empty where there is none."""
        if self.kind is ProviderKind.DEEPGRAM:
            return ""
        own = self.deployment if self.kind is ProviderKind.AZURE else self.model
        return self.text_model or ("" if "realtime" in own.lower() else own)
