"""Attacks on certified models: an independent check that no certificate claims too much."""

from lipnet.certify.attacks.autoattack import AutoAttack
from lipnet.certify.attacks.check import POWER_FACTORS, Attacker, attack
from lipnet.certify.attacks.pgd import PGD
from lipnet.certify.attacks.result import AttackResult
from lipnet.certify.attacks.violation import CertificateViolationError, UnsoundCertificatesError

__all__ = [
    "PGD",
    "POWER_FACTORS",
    "AttackResult",
    "Attacker",
    "AutoAttack",
    "CertificateViolationError",
    "UnsoundCertificatesError",
    "attack",
]
