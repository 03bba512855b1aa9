# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.errors import ConfigDirError

CONFIG = 'CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14) 12.2.0"\nCONFIG_SMP=y\n'
UTSRELEASE = "build/include/generated/utsrelease.h"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / UTSRELEASE).parent.mkdir(parents=True)
    (tmp_path / UTSRELEASE).write_text('#define UTS_RELEASE "6.1.0-50-cloud-amd64"\n')
    (tmp_path / "System.map").write_text("ffffffff81000000 T _text\n")
    (tmp_path / ".config").write_text(CONFIG)
    return tmp_path


def test_complete_folder(folder: Path) -> None:
    (folder / "flags").write_text("V=0\nKCFLAGS=-pipe\n")
    config = read_config_dir(folder)
    assert config.release == "6.1.0-50-cloud-amd64"
    assert config.compiler == "gcc-12"
    assert config.compiler_text == "gcc-12 (Debian 12.2.0-14) 12.2.0"
    assert config.flags == ("V=0", "KCFLAGS=-pipe")
    assert config.vmlinuz is None


@pytest.mark.parametrize("name", ["System.map", ".config"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigDirError, match=rf"/{name}: missing; .*ksplice config RELEASE DIR"):
        read_config_dir(folder)


def test_missing_build_link(folder: Path) -> None:
    (folder / "build").rename(folder / "elsewhere")
    with pytest.raises(ConfigDirError, match="/build: missing; it must be a link"):
        read_config_dir(folder)


def test_dangling_build_link(folder: Path) -> None:
    (folder / "build").rename(folder / "elsewhere")
    (folder / "build").symlink_to("nowhere")
    with pytest.raises(ConfigDirError, match="/build: missing"):
        read_config_dir(folder)


def test_build_that_is_no_headers_folder(folder: Path) -> None:
    (folder / UTSRELEASE).unlink()
    with pytest.raises(ConfigDirError, match=r"no UTS_RELEASE; .* must be the headers' folder"):
        read_config_dir(folder)


def test_configuration_of_another_kernel(folder: Path) -> None:
    (folder / "build/.config").write_text(CONFIG + "CONFIG_KASAN=y\n")
    with pytest.raises(ConfigDirError, match=r"/\.config differs from .*/build/\.config"):
        read_config_dir(folder)


@pytest.mark.parametrize("line", ["CONFIG_SMP=y", 'CONFIG_CC_VERSION_TEXT=""'])
def test_configuration_without_a_compiler(folder: Path, line: str) -> None:
    (folder / ".config").write_text(f"{line}\n")
    with pytest.raises(ConfigDirError, match="no CONFIG_CC_VERSION_TEXT"):
        read_config_dir(folder)


def test_no_stock_image(folder: Path) -> None:
    config = read_config_dir(folder)
    with pytest.raises(ConfigDirError, match=r"/vmlinuz: missing; .*ksplice config RELEASE DIR"):
        config.stock_image()
    (folder / "vmlinuz").touch()
    assert config.stock_image() == folder / "vmlinuz"


def test_files_that_are_no_text(folder: Path) -> None:
    (folder / ".config").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigDirError, match=r"\.config: no CONFIG_CC_VERSION_TEXT in it"):
        read_config_dir(folder)
    (folder / ".config").unlink()
    (folder / ".config").mkdir()
    with pytest.raises(ConfigDirError, match=r"\.config: Is a directory"):
        read_config_dir(folder)


def test_files_that_cannot_be_read(folder: Path) -> None:
    (folder / "vmlinuz").mkdir()
    config = read_config_dir(folder)
    with pytest.raises(ConfigDirError, match=r"/vmlinuz: Is a directory; give a file that can"):
        config.stock_image()
    (folder / "System.map").unlink()
    (folder / "System.map").mkdir()
    with pytest.raises(ConfigDirError, match=r"/System\.map: Is a directory; give a file that can"):
        read_config_dir(folder)
