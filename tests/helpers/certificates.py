"""Certificates and keys of a federation on the loopback interface, as docs/flower.md makes them."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedjax_llm.flower.loopback import Secured


def _write_key(path, key, form):
    none = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
    path.chmod(0o600)


def _certificate(subject, key, issuer, issuer_key, extensions):
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    for each, critical in extensions:
        made = made.add_extension(each, critical=critical)
    return made.sign(issuer_key, hashes.SHA256())


def make(folder, nodes):
    """A certificate authority, the SuperLink's certificate and a key for each node."""
    folder.mkdir(parents=True)
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in ("ca", "superlink")
    ]
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in names]
    local = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    pem = serialization.Encoding.PEM
    basic = (x509.BasicConstraints(ca=True, path_length=None), True)
    for name, number, extension in (
        ("ca", 0, basic),
        ("superlink", 1, (x509.SubjectAlternativeName([local]), False)),
    ):
        made = _certificate(names[number], keys[number], names[0], keys[0], [extension])
        (folder / f"{name}.crt").write_bytes(made.public_bytes(pem))
        _write_key(folder / f"{name}.key", keys[number], serialization.PrivateFormat.PKCS8)
    node_keys = {}
    for node in nodes:
        key = ec.generate_private_key(ec.SECP384R1())
        node_keys[node] = folder / node
        _write_key(folder / node, key, serialization.PrivateFormat.OpenSSH)
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        (folder / f"{node}.pub").write_bytes(public + b"\n")
    return Secured(folder / "ca.crt", folder / "superlink.crt", folder / "superlink.key", node_keys)
