"""Certificates and servers with TLS, for the tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from helpers import free_port

from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import EmbeddedRedisError

OPENSSL = shutil.which("openssl")
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
DAYS = ("-days", "2")


def supports_tls(binary: Path) -> bool:
    """Whether the server was built with it; without a certificate it does not start, but why."""
    try:
        EmbeddedRedis(binary, extra_args=("--tls-port", str(free_port()))).start()
    except EmbeddedRedisError as error:
        return not re.search("Bad directive|Failed finding TLS support", str(error))
    raise AssertionError("it listens with TLS and has no certificate")


class Certificates:
    """An authority, and what it has signed: a server at 127.0.0.1, another elsewhere, a client."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = folder / "authority.pem"
        key = str(folder / "authority.key")
        self._signing = ("-CA", str(self.authority), "-CAkey", key, "-CAcreateserial")
        subject = ("-subj", "/CN=authority", *DAYS, "-out", str(self.authority))
        subject += ("-addext", "keyUsage=critical,keyCertSign")
        self._openssl("req", "-x509", *NEW_KEY, "-keyout", key, *subject)
        self.server = self._signed("server", "IP:127.0.0.1,DNS:localhost")
        self.elsewhere = self._signed("elsewhere", "DNS:redis.example.org")
        self.client = self._signed("client", "DNS:worker")

    def _signed(self, name: str, alternative: str) -> tuple[Path, Path]:
        """A certificate and its key."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        request, extension = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        # Python from 3.13 on wants to be told by whose key it was signed.
        extension.write_text(f"subjectAltName={alternative}\nauthorityKeyIdentifier=keyid\n")
        subject = ("-subj", f"/CN={name}", "-out", str(request))
        self._openssl("req", *NEW_KEY, "-keyout", str(key), *subject)
        signed = ("-extfile", str(extension), *DAYS, "-out", str(certificate))
        self._openssl("x509", "-req", "-in", str(request), *self._signing, *signed)
        return certificate, key

    def _openssl(self, *arguments: str) -> None:
        assert OPENSSL is not None
        subprocess.run([OPENSSL, *arguments], check=True, capture_output=True, timeout=30)

    def options(self, port: int, server: tuple[Path, Path] | None = None) -> tuple[str, ...]:
        """Options of redis-server: listen with TLS, and talk TLS to other servers."""
        certificate, key = server or self.server
        return (
            *("--tls-port", str(port), "--tls-replication", "yes", "--tls-cluster", "yes"),
            *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
            *("--tls-ca-cert-file", str(self.authority), "--tls-auth-clients", "yes"),
        )

    @property
    def query(self) -> str:
        """Options of a redis_url: trust the authority, and show the client's certificate."""
        certificate, key = self.client
        return f"ssl_ca_certs={self.authority}&ssl_certfile={certificate}&ssl_keyfile={key}"
