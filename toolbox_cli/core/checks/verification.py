"""Where checks are collected, in the order in which they are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolbox_cli.domain.models import Check, CheckStatus
from toolbox_cli.domain.profiles import ServiceProfile


@dataclass
class Verification:
    """What was found. ``profile`` is that of the service, where it was asked for."""

    checks: list[Check] = field(default_factory=list)
    profile: ServiceProfile | None = None

    def add(self, name: str, status: CheckStatus, detail: str, remedy: str | None = None) -> None:
        self.checks.append(Check(name=name, status=status, detail=detail, remedy=remedy))

    def require(self, name: str, good: bool, detail: str, remedy: str) -> None:
        """Pass or fail."""
        self.add(name, CheckStatus.PASS if good else CheckStatus.FAIL, detail, None if good else remedy)

    def wish(self, name: str, good: bool, detail: str, remedy: str | None = None) -> None:
        """Pass or warn: what a warning says does not make a registry wrong."""
        self.add(name, CheckStatus.PASS if good else CheckStatus.WARN, detail, None if good else remedy)

    def replace(self, name: str, status: CheckStatus, detail: str, remedy: str | None = None) -> None:
        """Instead of what was found before under this name."""
        self.checks = [check for check in self.checks if check.name != name]
        self.add(name, status, detail, remedy)

    def aim(self, command: str, at: str) -> None:
        """Let the remedies that name a command say what it is for."""
        self.checks = [
            check.model_copy(update={"remedy": check.remedy.replace(command, f"{command} {at}")})
            if check.remedy
            else check
            for check in self.checks
        ]

    def of(self, name: str) -> list[Check]:
        """The checks of a name."""
        return [check for check in self.checks if check.name == name]

    @property
    def ok(self) -> bool:
        return not any(check.status is CheckStatus.FAIL for check in self.checks)
