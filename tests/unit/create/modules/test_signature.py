# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's signature on a module, by the kernel's own program."""

from pathlib import Path

import pytest

from ksplicd.create.modules.signature import ModuleKey, sign_file, sign_module
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.errors import CreateError
from ksplicd.run import run
from tests.support.needs import require

MAGIC = b"~Module signature appended~\n"
"""MODULE_SIG_STRING, include/linux/module_signature.h."""


@pytest.fixture
def config(tmp_path: Path) -> ConfigDir:
    return ConfigDir(
        path=tmp_path, text='CONFIG_MODULE_SIG_HASH="sha512"\n', release="6.1", compiler="gcc-12",
        compiler_text="gcc-12", flags=(),
    )  # fmt: skip


@pytest.fixture
def key(tmp_path: Path, config: ConfigDir) -> ModuleKey:
    try:
        sign_file(config)
    except CreateError:
        pytest.skip("linux-kbuild is not installed")
    require("openssl")
    made = ModuleKey(key=tmp_path / "key.pem", certificate=tmp_path / "cert.pem")
    run(["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test",
         "-keyout", made.key, "-out", made.certificate])  # fmt: skip
    return made


def test_signature_is_behind_the_module_and_the_same_each_time(
    config: ConfigDir, key: ModuleKey
) -> None:
    signed = sign_module(b"module", key, config)
    assert signed.startswith(b"module")
    assert signed.endswith(MAGIC)
    assert sign_module(b"module", key, config) == signed
    assert sign_module(b"modulf", key, config)[6:] != signed[6:]


def test_key_that_is_none(config: ConfigDir, key: ModuleKey) -> None:
    wrong = ModuleKey(key=key.certificate, certificate=key.certificate)
    with pytest.raises(CreateError, match=r"cert\.pem: no PRIVATE KEY in it"):
        wrong.check()
    with pytest.raises(CreateError, match="--module-sign-key"):
        sign_module(b"module", wrong, config)
